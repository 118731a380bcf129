#!/usr/bin/env python3
"""Breaks grapevine-core in one place at a time and sees who notices.

Each mutant of mutants.toml is put into a copy of this checkout, in a directory that is removed afterwards, and judged by the
tests of grapevine-core; one that survives them is judged by the simulator and its explorer. Exit status: 0 if every mutant was
caught, or stands in SURVIVORS with a reason; 1 if another one survived, or one of those was caught after all, or a mutant does
not fit the code any more; 2 for bad usage.

    integration-tests/mutants/run.py                      # all, about a minute each
    integration-tests/mutants/run.py token-entry-else-floor fresh-before-applied
    integration-tests/mutants/run.py --sample 5 --salt "$(git rev-parse HEAD)"
    integration-tests/mutants/run.py --list
    integration-tests/mutants/run.py --fits               # a second, and runs none: whether each fits and is listed
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CORE = pathlib.Path("crates/grapevine-core/src")
# A mutant may loop for ever: then it is caught by the clock.
TESTS_SECONDS_MAX = 420
SIM_SECONDS_MAX = 900
SCENARIOS = ("storm", "short-memory")

# Who survives both, and why that is right. Told at length in README.md.
SURVIVORS = {}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="mutants; all without any")
    parser.add_argument("--list", action="store_true", help="print their names and end")
    parser.add_argument("--fits", action="store_true", help="run none: only see that each fits and is listed")
    parser.add_argument("--sample", type=int, metavar="N", help="only N of them, chosen by --salt")
    parser.add_argument("--salt", default="", help="chooses the sample")
    parser.add_argument("--no-sim", action="store_true", help="ask the tests only")
    parser.add_argument("--seeds", default="0..3000", metavar="A..B", help="what the simulator runs")
    parser.add_argument("--jobs", type=int, default=2, help="cargo's and the simulator's jobs")
    parser.add_argument("--target-dir", type=pathlib.Path, help="kept and used again; else a temporary one")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results there as well")
    return parser.parse_args()


def chosen(options, mutants):
    known = {mutant["name"] for mutant in mutants}
    if unknown := set(options.names) - known:
        sys.exit(f"unknown mutants: {', '.join(sorted(unknown))}")
    if options.names:
        return [mutant for mutant in mutants if mutant["name"] in options.names]
    if options.sample is not None:

        def key(mutant):
            return hashlib.sha256((options.salt + mutant["name"]).encode()).digest()

        return sorted(mutants, key=key)[: options.sample]
    return mutants


def misfit(mutant, tree):
    """Why it cannot be put into this tree, or None."""
    path = tree / CORE / mutant["file"]
    if not path.is_file():
        return f"{mutant['file']} is not there"
    times = path.read_text().count(mutant["old"])
    if times != 1:
        return f"its `old` stands {times} times in {mutant['file']}"
    return "it changes nothing" if mutant["old"] == mutant["new"] else None


def misfits(mutants):
    """What is wrong with the list, without running anything: who does not fit the code, and where README.md differs."""
    told = re.findall(r"^\| `([a-z-]+)` \| (G\d+) \|", (HERE / "README.md").read_text(), re.MULTILINE)
    listed = [(mutant["name"], mutant["guarantee"]) for mutant in mutants]
    wrong = [f"{mutant['name']}: {why}" for mutant in mutants if (why := misfit(mutant, ROOT))]
    wrong += [f"{name}: README.md has no row of it for {of}" for name, of in listed if (name, of) not in told]
    names = [name for name, _ in listed]
    wrong += [f"{name}: README.md has a row of it, and there is none" for name, _ in told if name not in names]
    wrong += [f"{name}: there are two of this name" for name in sorted(set(names)) if names.count(name) > 1]
    return wrong


def copy_tree(to):
    files = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    for name in filter(None, files.decode().split("\0")):
        source = ROOT / name
        if source.is_file():
            target = to / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def run(command, cwd, target_dir, seconds_max):
    """The exit status, or None if it took too long, and what was said."""
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(target_dir),
        "CARGO_TERM_COLOR": "never",
        # A failure is enough; nobody reads the smallest one.
        "PROPTEST_MAX_SHRINK_ITERS": "0",
        # What a history found in a broken core says nothing about the whole one.
        "PROPTEST_FAILURE_PERSISTENCE": "off",
    }
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds_max)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        said, _ = process.communicate()
        return None, said
    return process.returncode, said


def failed_tests(said):
    lines = said.splitlines()
    return sorted({line.split()[1] for line in lines if line.startswith("test ") and line.endswith("FAILED")})


def judge(mutant, tree, target_dir, options):
    """Who caught it, and by what."""
    core_jobs = f"-j{options.jobs}"
    build = ["cargo", "test", "--locked", "--quiet", core_jobs, "-p", "grapevine-core", "--no-run"]
    status, said = run(build, tree, target_dir, SIM_SECONDS_MAX)
    if status != 0:
        return "does not build", said[-2000:]
    test = ["cargo", "test", "--locked", core_jobs, "-p", "grapevine-core"]
    status, said = run(test, tree, target_dir, TESTS_SECONDS_MAX)
    if status is None:
        return "tests", "they do not end"
    if status != 0:
        failed = failed_tests(said)
        first = failed[0] if failed else said.strip().splitlines()[-1]
        return "tests", f"{len(failed)}: {first}"
    if options.no_sim:
        return "nobody", "of the tests; the simulator was not asked"
    for scenario in SCENARIOS:
        found = simulated(scenario, tree, target_dir, options)
        # What the whole core violates, if anything, says nothing about the broken one.
        if found != options.baseline.get(scenario, "none"):
            return "simulator", f"{scenario}: {found}"
    explore = [*sim_command(options), "explore", "--jobs", str(options.jobs)]
    status, said = run(explore, tree, target_dir, SIM_SECONDS_MAX)
    if status != 0:
        line = next((line for line in said.splitlines() if " violated: " in line), "it does not end")
        return "explorer", line.strip()
    return "nobody", SURVIVORS.get(mutant["name"], "")


def sim_command(options):
    cargo = ["cargo", "run", "--locked", "--quiet", "--release", f"-j{options.jobs}", "-p", "grapevine-sim"]
    return [*cargo, "--"]


def simulated(scenario, tree, target_dir, options):
    """What the simulator says is violated."""
    world = ["--seeds", options.seeds, "--scenario", scenario, "--jobs", str(options.jobs), "--shrink-runs", "0"]
    status, said = run([*sim_command(options), "simulate", *world], tree, target_dir, SIM_SECONDS_MAX)
    if status is None:
        return "it does not end"
    lines = (line for line in said.splitlines() if line.startswith("violations"))
    return next(lines, "it panics").removeprefix("violations").strip()


def main():
    options = arguments()
    mutants = tomllib.loads((HERE / "mutants.toml").read_text())["mutant"]
    if options.list:
        for mutant in mutants:
            print(f"{mutant['name']:<28} {mutant['guarantee']:<4} {mutant['why']}")
        return 0
    if options.fits:
        if wrong := misfits(mutants):
            print("\n".join(wrong), file=sys.stderr)
            return 1
        print(f"{len(mutants)} mutants fit the code")
        return 0
    wrong = []
    results = []
    with tempfile.TemporaryDirectory(prefix="grapevine-mutants-") as temporary:
        tree = pathlib.Path(temporary) / "tree"
        copy_tree(tree)
        target_dir = options.target_dir.resolve() if options.target_dir else pathlib.Path(temporary) / "target"
        options.baseline = {}
        if not options.no_sim:
            options.baseline = {scenario: simulated(scenario, tree, target_dir, options) for scenario in SCENARIOS}
        for mutant in chosen(options, mutants):
            begin = time.monotonic()
            if why := misfit(mutant, tree):
                by, how = "does not fit", why
            else:
                path = tree / CORE / mutant["file"]
                whole = path.read_text()
                path.write_text(whole.replace(mutant["old"], mutant["new"]))
                by, how = judge(mutant, tree, target_dir, options)
                path.write_text(whole)
            seconds = round(time.monotonic() - begin)
            name = mutant["name"]
            print(f"{name:<28} {mutant['guarantee']:<4} {by:<10} {seconds:>4} s  {how}", flush=True)
            results.append({"name": name, "guarantee": mutant["guarantee"], "by": by, "how": how, "seconds": seconds})
            expected = "nobody" if name in SURVIVORS else "caught"
            if (by if by in ("nobody", "does not fit", "does not build") else "caught") != expected:
                wrong.append(name)
    judges = ("tests", "simulator", "explorer", "nobody")
    counts = ", ".join(f"{by} {sum(result['by'] == by for result in results)}" for by in judges)
    print(f"{len(results)} mutants, caught by: {counts}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if wrong:
        print(f"not as expected: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
