"""A process that forks, as servers with workers do."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cluster import Cluster

PROGRAM = """
import os, sys
from grapevine_client import Client, How, Settings

endpoint, cache, number, used_before = sys.argv[1:]
client = Client(endpoint, cache=cache, settings=Settings(resolve_deadline_s=5))
read = lambda: client.get_or_fill_outcome(f"f::{number}", [f"cart/{number}"], lambda: 7)
if used_before == "used":
    assert read().value == 7
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        # As many as it takes for the parent's answers to be read, if its sockets are.
        outcomes = [read() for _ in range(100)]
        good = all(each.value == 7 for each in outcomes) and outcomes[-1].how is How.HIT
        counts = client.stats()
        good = good and counts.cache_get_errors == counts.cache_set_errors == 0
        if not good:
            print(outcomes[-1], counts, file=sys.stderr, flush=True)
        os._exit(0 if good else 1)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
assert read().how is How.HIT
"""


@pytest.mark.parametrize("used_before", ["unused", "used"])
def test_workers_that_were_forked_have_connections_of_their_own(
    cluster: Cluster, memcached_url: str, n: int, used_before: str
) -> None:
    command = [sys.executable, "-c", PROGRAM, cluster[0].tcp, memcached_url, f"{n}-{used_before}", used_before]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
