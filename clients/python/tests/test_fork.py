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


# One thread computes "a", another one the new value of "s", which is served stale, when the process forks.
IN_THE_MIDST = """
import os, signal, sys, threading
from grapevine_client import Client, How, Settings

client = Client(sys.argv[1], cache="memory://", settings=Settings(resolve_deadline_s=5))
client.get_or_fill("s", ["soft/fork"], lambda: "old")
client.invalidate(["soft/fork"], soft=True)
begun, go = threading.Semaphore(0), threading.Event()

def loader():
    begun.release()
    go.wait(30)
    return "of the parent"

stale = lambda load: client.get_or_fill_outcome("s", ["soft/fork"], load, serve_stale=True)
thread = threading.Thread(target=client.get_or_fill, args=("a", ["cart/fork"], loader))
thread.start()
assert stale(loader).how is How.STALE
begun.acquire()
begun.acquire()
child = os.fork()
if child == 0:
    signal.alarm(20)
    read = client.get_or_fill_outcome("a", ["cart/fork"], lambda: "of the child")
    done = threading.Event()
    good = (read.value, read.how, stale(done.set).how) == ("of the child", How.FILLED, How.STALE)
    os._exit(0 if good and done.wait(10) else 1)
status = os.waitpid(child, 0)[1]
go.set()
thread.join()
assert client.get_or_fill_outcome("a", ["cart/fork"], loader).value == "of the parent"
sys.exit(status != 0)
"""


def test_a_child_waits_for_nobody_who_stayed_in_the_parent(cluster: Cluster) -> None:
    command = [sys.executable, "-c", IN_THE_MIDST, cluster[0].tcp]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("used_before", ["unused", "used"])
def test_workers_that_were_forked_have_connections_of_their_own(
    cluster: Cluster, memcached_url: str, n: int, used_before: str
) -> None:
    command = [sys.executable, "-c", PROGRAM, cluster[0].tcp, memcached_url, f"{n}-{used_before}", used_before]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
