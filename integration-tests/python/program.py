"""Runs every check against one cluster of three sidecars, in order, and says how it went.

Arguments choose checks: those whose name contains one of them. `run.sh` makes the stubs and starts this.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback

import checks_calls
import checks_formats
import checks_load
import checks_misuse
import checks_values
import pykit
from cluster import POLICIES, Sidecar
from memcached import Connection


class World:
    """What checks are given."""

    def __init__(self, cluster: pykit.Cluster[Sidecar], cache_port: int | None):
        self.cluster = cluster
        self.sidecars = cluster.sidecars
        self.cache_port = cache_port

    def cache(self) -> Connection:
        """A connection of the caller's own."""
        return Connection(self.cache_port)


def wanted(checks):
    words = sys.argv[1:]
    return [check for check in checks if not words or any(word in check.__name__ for word in words)]


def run(check, *arguments) -> bool:
    name = check.__name__.removeprefix("check_")
    begun = time.monotonic()
    try:
        check(*arguments)
    except Exception:  # a failed check is told, and the next one runs
        print(f"FAILED {name}", flush=True)
        traceback.print_exc()
        return False
    print(f"ok     {name} ({time.monotonic() - begun:.1f} s)", flush=True)
    return True


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with_memcached = wanted(checks_calls.CHECKS_WITH_MEMCACHED + checks_load.CHECKS_WITH_MEMCACHED)
    results = [run(check) for check in wanted(checks_formats.CHECKS)]
    required = os.environ.get("GRAPEVINE_REQUIRE_PEERS") == "1"
    available = shutil.which("memcached") is not None
    skipped = 0
    if not available:
        for check in with_memcached:
            print(f"SKIPPED: memcached is not installed: {check.__name__}", file=sys.stderr)
        if required:
            print("memcached is not installed, and GRAPEVINE_REQUIRE_PEERS=1", file=sys.stderr)
            results += [False] * len(with_memcached)
        else:
            skipped = len(with_memcached)
        with_memcached = []
    with contextlib.ExitStack() as started:
        directory = started.enter_context(tempfile.TemporaryDirectory(prefix="grapevine-python-"))
        server = started.enter_context(pykit.memcached()) if available else None
        cache = ["--cache", server.url] if server else []
        cluster = pykit.Cluster(Sidecar, pathlib.Path(directory), POLICIES, *cache)
        started.callback(cluster.close)
        cluster.wait_fresh()
        world = World(cluster, server and server.port)
        checks = checks_calls.CHECKS + checks_values.CHECKS + checks_misuse.CHECKS + checks_load.CHECKS
        for check in [*wanted(checks), *with_memcached]:
            results.append(run(check, world))
        if not all(results):
            for sidecar in cluster.sidecars:
                print(f"--- {sidecar.name}\n{sidecar.tail()}", file=sys.stderr)
    failed = results.count(False)
    print(f"{len(results) - failed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
