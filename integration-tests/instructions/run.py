#!/usr/bin/env python3
"""Counts the instructions of the paths that a sidecar spends its time on, and holds them against `bounds.json`.

Times vary with what else a machine does; instructions do not, but for a few: what a hash map's random seed makes of its
probes. Each path is done so often and twice as often under callgrind; the difference, divided, is what one takes. A path
above its bound fails, and so does one that is more than a fifth below it: then the bound says nothing any more, and is to
be lowered.

    integration-tests/instructions/run.py            counts, and compares
    integration-tests/instructions/run.py --print    counts only

Takes valgrind, and builds the example `hot_paths` of grapevine-core.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[2]
BOUNDS = REPO / "integration-tests/instructions/bounds.json"
TIMES = 10_000
# A bound that is higher than this much of what is counted is to be lowered.
SLACK = 1.2


def build() -> pathlib.Path:
    command = ["cargo", "build", "--release", "--locked", "-p", "grapevine-core", "--example", "hot_paths"]
    subprocess.run(command, cwd=REPO, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
    return target / "release/examples/hot_paths"


def collected(program: pathlib.Path, path: str, times: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, path, str(times)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not found:
        sys.exit(f"{path} {times}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="compare with nothing")
    only_print = parser.parse_args().print
    program = build()
    wrong = []
    for path, bound in json.loads(BOUNDS.read_text()).items():
        each = (collected(program, path, 2 * TIMES) - collected(program, path, TIMES)) / TIMES
        print(f"{path}: {each:.0f} instructions, bound {bound}")
        if each > bound:
            wrong.append(f"{path} takes {each:.0f} instructions, and the bound is {bound}")
        elif each * SLACK < bound:
            wrong.append(
                f"{path} takes {each:.0f} instructions only: lower its bound of {bound} in {BOUNDS.relative_to(REPO)}"
            )
    if wrong and not only_print:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
