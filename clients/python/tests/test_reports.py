"""What a sidecar is told of its clients' reads, as an operator sees it in its counters."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import cluster as kit
from cluster import Sidecar
from conftest import PATIENT
from grapevine_client import AsyncClient, BypassReason, CallError, Client, How, MemoryCache, Settings, Snapshot, Stats
from grapevine_client._io import run
from grapevine_client._link import Gated
from grapevine_client.errors import NoAnswer, Unreachable
from pykit import eventually, eventually_async
from test_django import GrapevineCache

NEVER_BY_ITSELF = Settings(resolve_deadline_s=5, report_every_s=3_600)


@pytest.fixture
def sidecar(tmp_path: Any) -> Iterator[Sidecar]:
    with kit.alone(tmp_path) as sidecar:
        yield sidecar


def told(sidecar: Sidecar) -> tuple[int, ...]:
    counters = sidecar.counters()
    names = ("client_hits", "client_misses", "client_stale_served", "client_bypasses")
    assert set(names) <= set(counters)
    return tuple(counters[name] for name in names)


def numbers(stats: Stats) -> tuple[int, ...]:
    return (stats.hits, stats.misses, stats.stale_served, stats.bypasses)


def often(every_s: float) -> Settings:
    return Settings(resolve_deadline_s=5, commit_deadline_s=5, report_every_s=every_s)


def read_in_every_way(client: Client) -> None:
    """3 hits, 6 misses, 1 stale, 1 bypass: the refresh behind the stale one misses, and so does what bypasses in a snapshot."""
    for _ in range(3):
        client.get_or_fill("a", ["cart/1"], lambda: 1)
    client.get_or_fill_page("p", ["paged/1"], 0, 40, lambda offset, limit: list(range(limit)))
    client.get_or_fill_page("p", ["paged/1"], 20, 10, lambda offset, limit: list(range(limit)))
    client.get_or_fill("s", ["soft/1"], lambda: "old")
    client.invalidate(["soft/1"], soft=True)
    stale = client.get_or_fill_outcome("s", ["soft/1"], lambda: "new", serve_stale=True)
    assert stale.how is How.STALE
    eventually(lambda: client.stats().stored == 5, what="the new value is there")
    bypassed = client.get_or_fill_outcome("b", ["cart/2"], lambda: 1, snapshot=Snapshot())
    assert bypassed.bypass_reason is BypassReason.SNAPSHOT


def test_a_client_that_reads_tells_its_sidecar_all_of_it_and_one_that_is_not_to_nothing(sidecar: Sidecar) -> None:
    with (
        Client(sidecar.tcp, cache="memory://", settings=often(0.05)) as client,
        Client(sidecar.tcp, cache="memory://", settings=Settings(resolve_deadline_s=5, report_every_s=None)) as silent,
    ):
        client.wait_until_ready()
        read_in_every_way(client)
        assert numbers(client.stats()) == (3, 6, 1, 1)
        before: tuple[int, ...] = (-1,)

        def goes_on() -> bool:
            nonlocal before
            for each in (client, silent):
                each.get_or_fill("a", ["cart/1"], lambda: 1)
            seen, before = before, told(sidecar)
            return before[0] > seen[0] > 3

        # Reports come again and again while it reads; all but hits is told by then.
        for _ in range(3):
            eventually(goes_on, what="further hits are told")
        assert before[1:] == (6, 1, 1)
        assert silent.stats().hits >= 3
    # What was left, by `close`: and nothing of the silent one.
    assert told(sidecar) == numbers(client.stats())


def test_what_a_failed_report_would_have_told_the_next_one_tells(sidecar: Sidecar) -> None:
    settings = Settings(resolve_deadline_s=5, call_deadline_s=5, report_every_s=0.02)
    with Client(sidecar.tcp, cache="memory://", settings=settings) as client:
        client.wait_until_ready()
        read_in_every_way(client)
        client.report()
        known = numbers(client.stats())
        assert told(sidecar) == known
        sidecar.kill()

        def bypasses() -> bool:
            # Reads go on, and do not fail, whatever becomes of the reports that they send.
            return client.get_or_fill_outcome("a", ["cart/1"], lambda: 1).how is How.BYPASSED

        eventually(lambda: bypasses() and client.stats().bypass_unreachable >= 100, what="a hundred reads are bypasses")
        with pytest.raises(Unreachable):
            client.report()
        sidecar.start()
        sidecar.wait_fresh()

        def told_since() -> bool:
            client.get_or_fill("a", ["cart/1"], lambda: 1)
            return told(sidecar)[3] > 0

        eventually(told_since, what="the bypasses are told")
    # A sidecar counts from its start.
    since = tuple(now - then for now, then in zip(numbers(client.stats()), known, strict=True))
    assert since[3] >= 100
    assert told(sidecar) == since


def test_a_sidecar_that_says_nothing_holds_neither_reads_nor_the_end_of_the_client_up(sidecar: Sidecar) -> None:
    settings = Settings(resolve_deadline_s=0.2, call_deadline_s=60, report_every_s=0.001)
    client = Client(sidecar.tcp, cache=MemoryCache(), settings=settings)
    client.wait_until_ready()

    def reports() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "grapevine-report"]

    eventually(lambda: client.get_or_fill_outcome("a", ["cart/1"], lambda: 1).how is How.HIT, what="a read hits")
    sidecar.pause()
    try:
        eventually(
            lambda: client.get_or_fill("a", ["cart/1"], lambda: 1) and client.stats().bypass_unreachable > 20,
            what="reads go to the source without waiting, with a report under way",
        )
        # The one that waits for its answer is the only one.
        assert len(reports()) == 1
        began = time.monotonic()
        client.close()
        assert 0.4 < time.monotonic() - began < 5
        eventually(lambda: not reports(), what="the report has ended with its connection")
    finally:
        sidecar.resume()


def test_reads_of_many_threads_are_each_told_once(sidecar: Sidecar) -> None:
    with Client(sidecar.tcp, cache="memory://", settings=often(0.001)) as client:
        client.wait_until_ready()

        def work(thread: int) -> None:
            for number in range(50):
                client.get_or_fill(f"{thread}:{number % 5}", ["cart/1"], lambda: 1)
                if number % 10 == 0:
                    client.report()

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
    assert numbers(client.stats()) == (360, 40, 0, 0)
    assert told(sidecar) == (360, 40, 0, 0)


def test_report_tells_at_once_what_is_new_and_close_what_is_left(sidecar: Sidecar) -> None:
    with Client(sidecar.tcp, cache="memory://", settings=NEVER_BY_ITSELF) as client:
        client.wait_until_ready()
        for reads in range(1, 4):
            client.get_or_fill("a", ["cart/1"], lambda: 1)
            client.report()
            assert told(sidecar) == (reads - 1, 1, 0, 0)
            client.report()
            assert told(sidecar) == (reads - 1, 1, 0, 0)
        client.get_or_fill("a", ["cart/1"], lambda: 1)
        assert told(sidecar) == (2, 1, 0, 0)
    assert told(sidecar) == (3, 1, 0, 0)
    with Client(sidecar.tcp, settings=NEVER_BY_ITSELF) as without_a_cache:
        without_a_cache.report()


def test_reads_of_pages_are_reported_too(sidecar: Sidecar) -> None:
    with Client(sidecar.tcp, cache="memory://", settings=often(0.02)) as client:
        client.wait_until_ready()

        def hits_are_told() -> bool:
            client.get_or_fill_page("p", ["paged/1"], 0, 20, lambda offset, limit: list(range(limit)))
            return told(sidecar)[0] > 3

        eventually(hits_are_told, what="hits are told")


def test_a_report_is_no_probe_and_a_late_answer_to_it_closes_no_gate(sidecar: Sidecar) -> None:
    with Client(sidecar.tcp, cache="memory://", settings=NEVER_BY_ITSELF) as client:
        client.wait_until_ready()
        client.get_or_fill("a", ["cart/1"], lambda: 1)
        reports, gate = client._base._reports, client._base._calls.own.gate
        sidecar.pause()
        try:
            for _ in range(5):
                with pytest.raises(NoAnswer):
                    run(reports.tell(0.02, Gated.ASIDE))
                assert gate.is_open
            for _ in range(3):
                with pytest.raises(NoAnswer):
                    run(reports.tell(0.02, Gated.NO))
            assert not gate.is_open
        finally:
            sidecar.resume()
        # The sidecar would answer, and the while is over at which a look-up may try.
        eventually(lambda: time.monotonic() > gate._retry_at, what="the while is over")
        with pytest.raises(Unreachable, match="left alone"):
            run(reports.tell(5, Gated.ASIDE))
        assert not gate.is_open
        assert gate.admit(5, time.monotonic()) == 0, "the probe is still to be had"
        client.report()
        assert gate.is_open


def test_more_than_a_report_may_tell_is_told_by_several(sidecar: Sidecar) -> None:
    most = 1_000_000_000_000
    with Client(sidecar.tcp, cache="memory://", settings=NEVER_BY_ITSELF) as client:
        client._base._counters.add("hits", most + 7)
        client.report()
        assert told(sidecar) == (most, 0, 0, 0)
    assert told(sidecar) == (most + 7, 0, 0, 0)


def test_a_sidecar_that_knows_no_reports_is_read_through_all_the_same() -> None:
    with ThreadPoolExecutor(1) as threads:
        older = grpc.server(threads)
        port = older.add_insecure_port("127.0.0.1:0")
        older.start()
        try:
            with Client(f"127.0.0.1:{port}", cache="memory://", settings=often(0.001)) as client:
                for _ in range(20):
                    assert client.get_or_fill("a", ["cart/1"], lambda: 1) == 1
                with pytest.raises(CallError, match="UNIMPLEMENTED"):
                    client.report()
        finally:
            older.stop(None)


FORKS = """
import os, sys
from grapevine_client import Client, Settings

endpoint, every = sys.argv[1], float(sys.argv[2])
client = Client(endpoint, cache="memory://", settings=Settings(resolve_deadline_s=5, report_every_s=every))
read = lambda: client.get_or_fill("a", ["cart/1"], lambda: 1)
for _ in range(10):
    read()
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        for _ in range(20):
            read()
        client.close()
        os._exit(0)
    children.append(child)
    read()
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
client.close()
"""


@pytest.mark.parametrize("every_s", ["3600", "0.001"])
def test_a_forked_worker_tells_its_own_reads_and_its_parent_the_rest(sidecar: Sidecar, every_s: str) -> None:
    """With a report under way when it forks, and with one that is not due."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, sidecar.tcp, every_s], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    # 10 and 3 of the parent, of which the first one misses; 20 of each child, whose cache holds what the parent's held.
    assert told(sidecar) == (72, 1, 0, 0)


def test_a_lock_that_a_thread_held_at_the_fork_is_free_in_the_child(sidecar: Sidecar) -> None:
    program = (
        "import os, signal, sys, threading\n"
        "from grapevine_client import Client, Settings\n"
        "client = Client(sys.argv[1], cache='memory://', settings=Settings(resolve_deadline_s=5))\n"
        "base, held, go = client._base, threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with base._reports._lock, base._counters._lock, base._calls.own._lock, base._calls.own.gate._lock:\n"
        "        held.set()\n"
        "        go.wait(30)\n"
        "threading.Thread(target=hold).start()\n"
        "held.wait(30)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(20)\n"
        "    assert client.get_or_fill('a', ['cart/1'], lambda: 7) == 7\n"
        "    client.close()\n"
        "    os._exit(0)\n"
        "status = os.waitpid(child, 0)[1]\n"
        "go.set()\n"
        "sys.exit(status)\n"
    )
    command = [sys.executable, "-c", program, sidecar.tcp]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert told(sidecar) == (0, 1, 0, 0)


def test_django_backends_report_their_gets(sidecar: Sidecar) -> None:
    options = {"cache": "memory://", "settings": often(0.02)}
    cache = GrapevineCache(sidecar.tcp, {"OPTIONS": options})
    cache.set("k", 1)

    def hits_are_told() -> bool:
        assert cache.get_many(["k", "absent"]) == {"k": 1}
        hits, misses, *_ = told(sidecar)
        return hits == misses > 3

    try:
        eventually(hits_are_told, what="gets are told")
    finally:
        cache.grapevine.close()


async def one() -> int:
    return 1


def with_async_client(
    sidecar: Sidecar, settings: Settings, test: Callable[[AsyncClient], Awaitable[None]]
) -> AsyncClient:
    async def run() -> AsyncClient:
        async with AsyncClient(sidecar.tcp, cache="memory://", settings=settings) as client:
            await client.wait_until_ready()
            await test(client)
        return client

    return asyncio.run(asyncio.wait_for(run(), 120))


def test_asyncio_tells_while_it_reads_and_when_it_is_closed(sidecar: Sidecar) -> None:
    async def test(client: AsyncClient) -> None:
        for _ in range(5):
            await client.get_or_fill("a", ["cart/1"], one)
        await client.report()
        assert told(sidecar) == (4, 1, 0, 0)
        for _ in range(3):
            before, _, _, _ = told(sidecar)

            async def goes_on(before: int = before) -> bool:
                await asyncio.gather(*(client.get_or_fill("a", ["cart/1"], one) for _ in range(10)))
                return told(sidecar)[0] > before

            await eventually_async(goes_on, what="further hits are told")
        await client.get_or_fill_page("p", ["paged/1"], 0, 20, lambda offset, limit: items(limit))

    async def items(limit: int) -> list[int]:
        return list(range(limit))

    client = with_async_client(sidecar, often(0.02), test)
    assert told(sidecar) == numbers(client.stats())
    assert client.stats().misses == 2


def test_asyncio_tells_later_what_a_report_that_failed_or_was_cancelled_would_have_told(sidecar: Sidecar) -> None:
    async def test(client: AsyncClient) -> None:
        await client.get_or_fill("a", ["cart/1"], one)
        sidecar.pause()
        try:
            report = asyncio.create_task(client.report())
            # Once round the loop, and it is sent.
            await asyncio.sleep(0)
            assert client._base._reports._told["misses"] == 1
            report.cancel()
            with pytest.raises(asyncio.CancelledError):
                await report
        finally:
            sidecar.resume()
        await client.wait_until_ready()
        # An answer that nobody waited for may have been to a report that was counted.
        assert (await client.get_or_fill_outcome("a", ["cart/1"], one)).how is How.HIT
        before = told(sidecar)
        await client.report()
        assert told(sidecar) == (1, before[1] + 1, 0, 0)

    with_async_client(sidecar, Settings(resolve_deadline_s=5, report_every_s=None), test)


def test_asyncio_is_held_up_by_no_report(sidecar: Sidecar) -> None:
    settings = Settings(resolve_deadline_s=0.2, call_deadline_s=60, report_every_s=0.001)

    async def run() -> float:
        client = AsyncClient(sidecar.tcp, cache="memory://", settings=settings)
        await client.wait_until_ready()
        while (await client.get_or_fill_outcome("a", ["cart/1"], one)).how is not How.HIT:
            pass
        sidecar.pause()
        while client.stats().bypass_unreachable < 20:
            await client.get_or_fill("a", ["cart/1"], one)
        assert len([task for task in asyncio.all_tasks() if task.get_name() == "grapevine-report"]) == 1
        began = time.monotonic()
        await client.close()
        return time.monotonic() - began

    try:
        assert 0.4 < asyncio.run(asyncio.wait_for(run(), 120)) < 5
    finally:
        sidecar.resume()


def test_the_default_is_ten_seconds() -> None:
    assert Settings().report_every_s == 10 == PATIENT.report_every_s


def test_report_raises_if_what_another_one_had_taken_on_itself_is_not_told(sidecar: Sidecar) -> None:
    settings = Settings(resolve_deadline_s=5, call_deadline_s=1, report_every_s=0.001)
    with Client(sidecar.tcp, cache="memory://", settings=settings) as client:
        client.wait_until_ready()
        client.get_or_fill("a", ["cart/1"], lambda: 1)
        client.report()
        sidecar.pause()
        try:
            client._base._counters.add("hits")
            eventually(lambda: client._base._reports.send_if_due() or unanswered(client), what="one is under way")
            with pytest.raises(NoAnswer):
                client.report()
        finally:
            sidecar.resume()


def unanswered(client: Client) -> bool:
    return client._base._reports._told["hits"] == client.stats().hits
