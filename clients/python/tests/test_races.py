"""The races that the fence is there for, as the Rust client's tests have them, on real sidecars."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cluster import Cluster
from grapevine_client import (
    AbortOutcome,
    Cache,
    Client,
    GrapevineError,
    How,
    MemoryCache,
    NoSidecar,
    Receipt,
    connect_cache,
)
from pykit import eventually

Clients = Callable[..., Client]
STRATEGIES = ["versioned", "registered", "bucketed"]


class Held:
    """A cache whose first `set` waits, as that of a slow reader does."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.ttl_grain_ms = cache.ttl_grain_ms
        self.arrived, self.go_on = threading.Event(), threading.Event()
        self.first = True

    def get(self, key: str) -> bytes | None:
        return self.cache.get(key)

    def get_many(self, keys: Any) -> dict[str, bytes]:
        return self.cache.get_many(keys)

    def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        if self.first:
            self.first = False
            self.arrived.set()
            assert self.go_on.wait(30)
        self.cache.set(key, value, ttl_ms)

    def add(self, key: str, value: bytes, ttl_ms: int) -> bool:
        return self.cache.add(key, value, ttl_ms)

    def close(self) -> None:
        self.cache.close()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_g3_no_strategy_serves_a_value_whose_read_began_before_the_invalidation(
    clients: Clients, cache_url: str, n: int, strategy: str
) -> None:
    """The loader reads the old row; the writer commits and invalidates; the set comes last."""
    readers = [clients(node, cache_url) for node in range(3)]
    address, classes = f"{strategy}::{n}", [f"{strategy}/{n}"]
    truth, hits = 0, 0
    for round_ in range(10):
        writer = readers[(round_ + 1) % 3]

        def overtaken(writer: Client = writer) -> int:
            nonlocal truth
            row = truth
            truth += 1
            assert writer.invalidate(classes, receipt=Receipt.ALL).receipt_satisfied
            return row

        assert readers[round_ % 3].get_or_fill(address, classes, overtaken) == truth - 1
        for reader in readers:
            read = reader.get_or_fill_outcome(address, classes, lambda: truth)
            assert read.value == truth, f"round {round_}: {read}"
            hits += read.how is How.HIT
        # So that the next round's loader runs.
        writer.invalidate(classes, receipt=Receipt.ALL)
    # Of three reads after each invalidation the first one fills, and the others find its value.
    assert hits >= 18, "the fence refuses what it need not"
    condemned = sum(reader.stats().condemned for reader in readers)
    # A commit is asked for where policy wants a directory entry.
    assert strategy == "bucketed" or condemned == (0 if strategy == "versioned" else 10)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_g3_a_late_set_that_lands_after_bump_and_refill_is_not_served(
    clients: Clients, cache_url: str, n: int, strategy: str
) -> None:
    held = Held(connect_cache(cache_url))
    slow, quick = clients(0, held), clients(1, cache_url)
    address, classes = f"{strategy}::{n}", [f"{strategy}/{n}"]
    with ThreadPoolExecutor(1) as pool:
        # Its commit is accepted, where there is one: nothing has happened yet.
        late = pool.submit(slow.get_or_fill_outcome, address, classes, lambda: "old")
        assert held.arrived.wait(30)
        quick.invalidate(classes, receipt=Receipt.ALL)
        assert quick.get_or_fill(address, classes, lambda: "new") == "new"
        held.go_on.set()
        assert late.result(30).value == "old"
    for reader in (quick, slow):
        # Under a fixed address the late one pushed the new one out; it is recognised, and computed anew.
        assert reader.get_or_fill(address, classes, lambda: "new") == "new"


def test_g3_a_token_that_was_overtaken_is_refused_by_the_sidecar(clients: Clients, n: int) -> None:
    """As of a registered class: the fill is condemned, its value is its caller's alone."""
    cache = MemoryCache()
    client = clients(0, cache)
    address, classes = f"r::{n}", [f"registered/{n}"]

    def load() -> str:
        clients(1).invalidate(classes, receipt=Receipt.ALL)
        return "old"

    read = client.get_or_fill_outcome(address, classes, load)
    assert (read.value, read.how, read.stored) == ("old", How.FILLED, False)
    assert client.stats().condemned == 1
    assert cache.get(client.resolve(address, classes).address) is None


def test_g3_a_dependency_bumped_during_the_fill_condemns_it(clients: Clients, n: int) -> None:
    from grapevine_client import depends_on

    client = clients()

    def load() -> str:
        depends_on(f"prices/{n}")
        clients(1).invalidate([f"prices/{n}"], receipt=Receipt.ALL)
        return "old"

    read = client.get_or_fill_outcome(f"a::{n}", [f"cart/{n}"], load)
    assert (read.value, read.stored, client.stats().condemned) == ("old", False, 1)
    assert client.get_or_fill(f"a::{n}", [f"cart/{n}"], lambda: "new") == "new"


def test_django_cacheops_478_g3_an_absence_read_before_the_user_was_made_is_not_kept(
    clients: Clients, memcached_url: str, n: int
) -> None:
    """The naive arm, get then set by bare pymemcache, keeps it."""
    naive, user = connect_cache(memcached_url), "no such user"

    def naive_read() -> bytes:
        nonlocal user
        found = naive.get(f"naive::{n}")
        if found is None:
            found, user = user.encode(), "Ada"
            naive.set(f"naive::{n}", found, 60_000)
        return found

    assert (naive_read(), naive_read()) == (b"no such user", b"no such user"), "the naive arm does not fail"
    for strategy in STRATEGIES:
        client, classes = clients(0, memcached_url), [f"{strategy}/{n}"]
        user = "no such user"

        def slow(classes: list[str] = classes) -> str:
            nonlocal user
            read, user = user, "Ada"
            clients(1).invalidate(classes, receipt=Receipt.ALL)
            return read

        assert client.get_or_fill(f"u::{strategy}:{n}", classes, slow) == "no such user"
        reads = [client.get_or_fill_outcome(f"u::{strategy}:{n}", classes, lambda: user) for _ in range(2)]  # noqa: B023
        assert [(each.value, each.how) for each in reads] == [("Ada", How.FILLED), ("Ada", How.HIT)]


def at_once(callers: int, work: Callable[[], Any]) -> list[Any]:
    """All of them in threads of their own, which begin together."""
    barrier = threading.Barrier(callers)

    def one() -> Any:
        barrier.wait(30)
        return work()

    with ThreadPoolExecutor(callers) as pool:
        return [each.result(60) for each in [pool.submit(one) for _ in range(callers)]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_many_readers_of_one_miss_fill_once(clients: Clients, cache_url: str, n: int, strategy: str) -> None:
    client, loads = clients(0, cache_url), 0
    everybody_missed = threading.Event()

    def load() -> int:
        nonlocal loads
        loads += 1
        assert everybody_missed.wait(30)
        return 7

    def release() -> None:
        # Only then: one that comes later would simply hit.
        eventually(lambda: client.stats().misses == 64, what="all have missed")
        everybody_missed.set()

    releasing = threading.Thread(target=release)
    releasing.start()
    reads = at_once(64, lambda: client.get_or_fill_outcome(f"{strategy}::{n}", [f"{strategy}/{n}"], load))
    releasing.join()
    assert loads == 1
    assert [each.value for each in reads] == [7] * 64
    assert sorted(each.how.value for each in reads) == ["filled"] + ["waited"] * 63
    assert client.stats().single_flight_waits == 63


def test_an_error_is_shared_by_those_who_waited(clients: Clients, n: int) -> None:
    client, loads = clients(), 0

    def load() -> int:
        nonlocal loads
        loads += 1
        eventually(lambda: client.stats().misses == 16, what="all have missed")
        raise LookupError("gone")

    def read() -> str:
        try:
            client.get_or_fill(f"a::{n}", [f"cart/{n}"], load)
        except LookupError as error:
            return str(error)
        return "no error"

    assert at_once(16, read) == ["gone"] * 16
    assert loads == 1


def test_g3_a_caller_who_asks_after_a_bump_does_not_join_the_fill_from_before_it(clients: Clients, n: int) -> None:
    client = clients()
    address, classes = f"a::{n}", [f"cart/{n}"]
    loading, go_on = threading.Event(), threading.Event()

    def old() -> str:
        loading.set()
        assert go_on.wait(30)
        return "old"

    with ThreadPoolExecutor(1) as pool:
        before = pool.submit(client.get_or_fill, address, classes, old)
        assert loading.wait(30)
        client.invalidate(classes)
        # It would wait for ever if it joined.
        assert client.get_or_fill(address, classes, lambda: "new") == "new"
        go_on.set()
        assert before.result(30) == "old"
    assert client.get_or_fill(address, classes, lambda: "newer") == "new"


def test_g3_who_waited_does_not_get_a_value_whose_dependency_changed_before_it_asked(clients: Clients, n: int) -> None:
    from grapevine_client import depends_on

    client = clients()
    address, classes, price = f"a::{n}", [f"cart/{n}"], f"prices/{n}"
    loading, go_on = threading.Event(), threading.Event()

    def old() -> str:
        depends_on(price)
        loading.set()
        assert go_on.wait(30)
        return "old"

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(client.get_or_fill, address, classes, old)
        assert loading.wait(30)
        client.invalidate([price])
        follower = pool.submit(client.get_or_fill, address, classes, lambda: "new")
        # It waits: its look-up knows the same token.
        eventually(lambda: client.stats().misses == 2, what="the second one has missed")
        go_on.set()
        assert (leader.result(30), follower.result(30)) == ("old", "new")


def test_g3_a_value_that_is_being_stored_is_checked_by_who_comes_then(clients: Clients, n: int) -> None:
    from grapevine_client import depends_on

    held = Held(MemoryCache())
    client = clients(0, held)
    address, classes, price = f"a::{n}", [f"cart/{n}"], f"prices/{n}"

    def old() -> str:
        depends_on(price)
        return "old"

    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(client.get_or_fill_outcome, address, classes, old)
        assert held.arrived.wait(30)
        # It was published, and nothing had happened yet: who comes now gets it.
        assert client.get_or_fill_outcome(address, classes, lambda: "new").how is How.WAITED
        client.invalidate([price])
        assert client.get_or_fill(address, classes, lambda: "new") == "new"
        held.go_on.set()
        assert leader.result(30).value == "old"
    assert client.get_or_fill(address, classes, lambda: "newer") in ("new", "newer")


def test_a_loader_that_asks_for_its_own_value_does_not_wait_for_itself(clients: Clients, n: int) -> None:
    client, depth = clients(), 0

    def load() -> int:
        nonlocal depth
        depth += 1
        return depth if depth == 2 else client.get_or_fill(f"a::{n}", [f"cart/{n}"], load)

    assert client.get_or_fill(f"a::{n}", [f"cart/{n}"], load) == 2


def test_race11_of_all_callers_at_three_sidecars_one_reads_the_source(
    clients: Clients, cluster: Cluster, memcached_url: str, n: int
) -> None:
    """Policy `fill = "one"`: two clients, as two processes have, at each of three sidecars."""
    six = [clients(node, memcached_url) for node in (0, 0, 1, 1, 2, 2)]
    turns = iter(range(10_000))
    loads = 0

    def load() -> int:
        nonlocal loads
        loads += 1
        eventually(lambda: sum(each.stats().misses for each in six) >= 24, what="all have missed")
        return 7

    def read() -> int:
        client = six[next(turns) % 6]
        return client.get_or_fill(f"e::{n}", [f"elected/{n}"], load)

    assert at_once(24, read) == [7] * 24
    assert loads == 1
    assert sum(each.stats().turn_failures for each in six) == 0
    assert sum(each.stats().turn_waits for each in six) == 5


def test_race11_a_turn_whose_loader_fails_goes_to_the_next_one(clients: Clients, memcached_url: str, n: int) -> None:
    one, other = clients(0, memcached_url), clients(1, memcached_url)
    loading, go_on = threading.Event(), threading.Event()

    def fails() -> int:
        loading.set()
        assert go_on.wait(30)
        raise LookupError

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(one.get_or_fill, f"e::{n}", [f"elected/{n}"], fails)
        assert loading.wait(30)
        second = pool.submit(other.get_or_fill_outcome, f"e::{n}", [f"elected/{n}"], lambda: 7)
        eventually(lambda: other.stats().misses == 1, what="the second one has missed")
        go_on.set()
        assert isinstance(first.exception(30), LookupError)
        read = second.result(30)
    assert (read.value, read.how, read.stored) == (7, How.FILLED, True)


def test_g8_a_commit_bumps_what_was_begun(clients: Clients, n: int) -> None:
    client = clients()
    address, classes = f"a::{n}", [f"cart/{n}"]
    client.get_or_fill(address, classes, lambda: "old")
    with client.begin_write(classes, lease_s=30, receipt=Receipt.ALL) as write:
        assert 0 < write.remaining_s <= write.lease_s == 30
        assert len(write.intent) == 25
        # Until it is committed the old value is right.
        assert client.get_or_fill(address, classes, lambda: "new") == "old"
    assert write.outcome is not None
    assert write.outcome.receipt_satisfied
    assert client.get_or_fill(address, classes, lambda: "new") == "new"
    with pytest.raises(GrapevineError, match="committed or aborted already"):
        write.commit()


def test_g8_an_abort_bumps_nothing(clients: Clients, n: int) -> None:
    client = clients()
    token = client.resolve("a", [f"cart/{n}"]).token
    with client.begin_write([f"cart/{n}"]) as write:
        assert write.abort() is AbortOutcome.NOTHING_BUMPED
    assert write.ended
    assert write.outcome is None
    assert client.resolve("a", [f"cart/{n}"]).token == token


def test_g8_an_error_in_the_block_leaves_the_write_open_for_nobody_knows_whether_it_was_committed(
    clients: Clients, n: int
) -> None:
    client = clients()
    token = client.resolve("a", [f"cart/{n}"]).token
    with pytest.raises(TimeoutError), client.begin_write([f"cart/{n}"], lease_s=0.5) as write:
        raise TimeoutError("of the database")
    assert not write.ended
    for other in (client, clients(1)):
        eventually(lambda other=other: other.resolve("a", [f"cart/{n}"]).token != token, what="the lease's end bumps")


def test_g8_a_writer_that_dies_between_commit_and_call_leaves_nothing_stale(
    clients: Clients, cluster: Cluster, cache_url: str, n: int, tmp_path: pathlib.Path
) -> None:
    database = tmp_path / "database"
    database.write_text("old")
    readers = [clients(node, cache_url) for node in range(3)]
    address, classes = f"a::{n}", [f"cart/{n}"]
    assert readers[0].get_or_fill(address, classes, database.read_text) == "old"
    command = [sys.executable, str(pathlib.Path(__file__).with_name("writer_that_dies.py"))]
    ended = subprocess.run([*command, cluster[1].tcp, classes[0], str(database), "1"], timeout=60, check=False)
    assert ended.returncode == 9
    died = time.monotonic()
    for reader in readers:
        eventually(
            lambda reader=reader: reader.get_or_fill(address, classes, database.read_text) == "new",
            what="the new value is read",
        )
    # Only a bound on hanging: the lease is 1 s, and a peer bumps a second later.
    assert time.monotonic() - died < 20


def test_g8_a_write_that_nobody_begins_is_an_error_that_lists_the_attempts() -> None:
    with Client("127.0.0.1:1", fail_over_to=["127.0.0.1:2"]) as client:
        for call in (client.begin_write(["cart/1"]).begin, lambda: client.invalidate(["cart/1"])):
            with pytest.raises(NoSidecar) as caught:
                call()
            assert [each.endpoint for each in caught.value.attempts] == ["127.0.0.1:1", "127.0.0.1:2"]
            assert not caught.value.may_have_had_effect
        assert client.stats().invalidate_failures == 1
        with pytest.raises(GrapevineError, match="has not begun"):
            client.begin_write(["cart/1"]).commit()
