"""A sidecar that is killed, hangs, and comes back, under load: no stale answer, bypass, recovery (G7)."""

from __future__ import annotations

import queue
import random
import sqlite3
import threading
from pathlib import Path

import pytest

from cluster import Cluster
from grapevine_client import (
    BypassReason,
    Client,
    How,
    MemoryCache,
    NoSidecar,
    Receipt,
    Session,
    Settings,
    Watch,
    WatchBump,
    WatchEvent,
    WatchLost,
    WatchResync,
    WatchStarted,
)
from pykit import NotYet, eventually

ROWS = 20


class Database:
    """The truth: rows with versions, on disk, read and written by several threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._local = path, threading.local()
        with self._connection() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, version INT)")
            connection.executemany("INSERT INTO rows VALUES (?, 0)", [(row,) for row in range(ROWS)])

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            self._local.connection = sqlite3.connect(self._path, timeout=30)
        connection: sqlite3.Connection = self._local.connection
        return connection

    def read(self, row: int) -> int:
        (version,) = self._connection().execute("SELECT version FROM rows WHERE id = ?", (row,)).fetchone()
        return int(version)

    def write(self, row: int) -> int:
        with self._connection() as connection:
            connection.execute("UPDATE rows SET version = version + 1 WHERE id = ?", (row,))
        return self.read(row)


def test_g7_a_sidecar_that_is_killed_and_restarted_under_load_gives_nothing_stale(
    own_cluster: Cluster, cache_url: str, tmp_path: Path
) -> None:
    """Readers at the one that is killed, writers at the two others: a read that begins after a write was acknowledged by all
    (`Receipt.ALL`, satisfied) never gives what was there before."""
    database = Database(tmp_path / "db")
    acknowledged, hits_on_written = [0] * ROWS, 0
    lock, stop = threading.Lock(), threading.Event()
    rounds = dict.fromkeys((1, 2, 3, 4), 0)
    stale: list[str] = []
    problems: list[BaseException] = []
    reader_client = Client(own_cluster[0].tcp, cache=cache_url, fail_over_to=[own_cluster[1].tcp])
    writer_client = Client(own_cluster[1].tcp, fail_over_to=[own_cluster[2].tcp])

    def reader(seed: int) -> None:
        nonlocal hits_on_written
        rows = random.Random(seed)
        while not stop.is_set():
            row = rows.randrange(ROWS)
            with lock:
                least = acknowledged[row]
            read = reader_client.get_or_fill_outcome(f"row::{row}", [f"rows/{row}"], lambda row=row: database.read(row))
            if read.value < least:
                stale.append(f"row {row}: {read} is older than {least}")
            with lock:
                hits_on_written += read.how is How.HIT and least > 0
                rounds[seed] += 1

    def writer(seed: int) -> None:
        rows = random.Random(seed)
        while not stop.is_set():
            row = rows.randrange(ROWS)
            version = database.write(row)
            outcome = writer_client.invalidate([f"rows/{row}"], receipt=Receipt.ALL)
            if outcome.receipt_satisfied:
                with lock:
                    acknowledged[row] = max(acknowledged[row], version)

    def goes_on(what: str, counter: str, reads: int, writes: int) -> None:
        """Waits for so many more of each."""
        read, written = getattr(reader_client.stats(), counter), sum(acknowledged)
        eventually(
            lambda: (
                problems
                or (getattr(reader_client.stats(), counter) >= read + reads and sum(acknowledged) >= written + writes)
            ),
            what=what,
        )

    def guarded(work: object, seed: int) -> threading.Thread:
        def run() -> None:
            try:
                work(seed)  # type: ignore[operator]
            except BaseException as error:
                problems.append(error)
                stop.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    threads = [guarded(reader, seed) for seed in rounds] + [guarded(writer, 5)]
    try:
        for _ in range(2):
            goes_on("hits and writes while all is well", "hits", 300, 60)
            own_cluster[0].kill()
            goes_on("reads go to the source", "bypass_unreachable", 50, 0)
            # What was looked up before the kill may be stored after it: until each reader has begun a read since.
            passed = dict(rounds)
            eventually(
                lambda passed=passed: problems or all(rounds[seed] >= passed[seed] + 2 for seed in passed),
                what="all go on",
            )
            stored = reader_client.stats().stored
            # A receipt of all takes until the one that is gone can no longer call itself fresh.
            goes_on("reads and writes without it", "bypass_unreachable", 300, 5)
            assert problems or reader_client.stats().stored == stored, "something was stored without the sidecar"
            own_cluster[0].start()
            goes_on("hits again, by itself", "hits", 300, 60)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
        reader_client.close()
        writer_client.close()
    assert not problems, problems
    assert not stale, stale[:5]
    assert hits_on_written > 300, "nothing was tested"


def test_g7_a_sidecar_that_is_gone_is_bypassed_and_nothing_is_stored(own_cluster: Cluster) -> None:
    cache = MemoryCache()
    with Client(own_cluster[0].tcp, cache=cache, settings=Settings(resolve_deadline_s=5)) as client:
        assert client.get_or_fill("a", ["cart/1"], lambda: "old") == "old"
        target = client.resolve("a", ["cart/1"]).address
        own_cluster[0].kill()
        for number in range(20):
            read = client.get_or_fill_outcome("a", ["cart/1"], lambda number=number: number)
            assert (read.value, read.how, read.stored) == (number, How.BYPASSED, False)
            assert read.bypass_reason is BypassReason.UNREACHABLE
        assert client.stats().bypass_unreachable == 20
        # What lies in the cache was neither read nor touched.
        assert cache.get(target) == b'"old"'
        own_cluster[0].start()
        eventually(
            lambda: client.get_or_fill_outcome("a", ["cart/1"], lambda: "new").how is How.HIT, what="it is used again"
        )


def test_g7_a_sidecar_that_hangs_is_bypassed_and_left_alone(own_cluster: Cluster) -> None:
    settings = Settings(resolve_deadline_s=0.1, backoff_min_s=20, backoff_max_s=20)
    with Client(own_cluster[0].tcp, cache="memory://", settings=settings) as client:
        client.wait_until_ready()
        own_cluster[0].pause()
        try:
            reasons = [client.get_or_fill_outcome("a", ["cart/1"], lambda: 7).bypass_reason for _ in range(50)]
        finally:
            own_cluster[0].resume()
        # Three take the deadline, the others nothing: for half the pause at least nobody asks.
        assert reasons == [BypassReason.DEADLINE] * 3 + [BypassReason.UNREACHABLE] * 47
        assert client.stats().resolve_rpcs == 50


def test_g7_policy_may_say_bypass(own_cluster: Cluster) -> None:
    """`on_unknown = "bypass"`: with two of three gone, the third cannot show that it is fresh."""
    with Client(own_cluster[0].tcp, cache="memory://", settings=Settings(resolve_deadline_s=5)) as client:
        client.get_or_fill("a", ["cart/1"], lambda: 1)
        own_cluster[1].kill()
        own_cluster[2].kill()
        read = eventually(
            lambda: (read := client.get_or_fill_outcome("a", ["cart/1"], lambda: 2)).how is How.BYPASSED and read,
            what="it says so",
        )
        assert read.bypass_reason is BypassReason.POLICY
        assert client.stats().bypass_policy >= 1


def test_g1_an_invalidation_fails_over_and_one_that_nobody_takes_is_an_error(own_cluster: Cluster) -> None:
    settings = Settings(resolve_deadline_s=5, invalidate_timeout_s=2, invalidate_slack_s=1)
    with (
        Client(own_cluster[0].tcp, fail_over_to=[own_cluster[1].unix], settings=settings) as client,
        Client(own_cluster[2].tcp, settings=settings) as other,
    ):
        token = other.resolve("a", ["cart/1"]).token
        own_cluster[0].kill()
        outcome = client.invalidate(["cart/1"])
        assert outcome.answered_by == own_cluster[1].unix
        session = Session(wait_s=10)
        session.add(outcome.session_token)
        assert other.resolve("a", ["cart/1"], session=session).token != token
        # A write begun elsewhere ends there.
        with client.begin_write(["cart/2"]) as write:
            assert write.begun_by == own_cluster[1].unix
        assert write.outcome is not None
        assert write.outcome.answered_by == own_cluster[1].unix
        assert client.stats().invalidate_failovers == 1
        own_cluster[1].kill()
        for _ in range(3):
            with pytest.raises(NoSidecar) as caught:
                client.invalidate(["cart/1"])
            assert len(caught.value.attempts) >= 2
        own_cluster[0].start()
        own_cluster[1].start()

        def acknowledged() -> bool:
            try:
                return client.invalidate(["cart/1"]).answered_by == own_cluster[0].tcp
            except NoSidecar:
                return False

        eventually(acknowledged, what="the own one is asked again")


class Heard:
    """What a watch tells, read by a thread of its own: one that stays silent blocks whoever asks it, past every deadline."""

    def __init__(self, watch: Watch) -> None:
        self._events: queue.SimpleQueue[WatchEvent | Exception] = queue.SimpleQueue()
        self._last: WatchEvent | None = None
        self._thread = threading.Thread(target=self._read, args=(watch,), daemon=True)
        self._thread.start()

    def _read(self, watch: Watch) -> None:
        try:
            for event in watch:
                self._events.put(event)
        except Exception as error:
            self._events.put(error)

    def event(self) -> WatchEvent | NotYet:
        """The next one, if it has been told."""
        try:
            event = self._events.get_nowait()
        except queue.Empty:
            return NotYet(f"nothing after {self._last}")
        if isinstance(event, Exception):
            raise event
        self._last = event
        return event

    def ended(self) -> bool:
        return not self._thread.is_alive()


def test_a_watch_survives_a_restart_and_says_what_it_missed(own_cluster: Cluster) -> None:
    with Client(own_cluster[0].tcp) as client:
        with client.watch() as watch:
            heard = Heard(watch)
            assert isinstance(eventually(heard.event, what="it begins"), WatchStarted)
            own_cluster[0].kill()
            assert isinstance(eventually(heard.event, what="the loss is told"), WatchLost)
            own_cluster[0].start()
            resync = eventually(heard.event, what="it is connected again")
            assert isinstance(resync, WatchResync)
            assert resync.reconnected
            own_cluster[0].wait_fresh()
            own_cluster[1].client.invalidate(["cart/1"], receipt=Receipt.ALL)

            def told() -> bool | NotYet:
                event = heard.event()
                return (isinstance(event, WatchBump) and event.classes == ("cart/1",)) or NotYet(event)

            # What it learns while it catches up may come before.
            eventually(told, what="the bump is heard")
        eventually(heard.ended, what="the watch that was closed ends")
