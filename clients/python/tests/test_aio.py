"""The asyncio client: the same core, other waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cluster import Cluster
from grapevine_client import (
    AbortOutcome,
    AsyncClient,
    BypassReason,
    GrapevineError,
    How,
    InlineCache,
    InvalidRequest,
    MemoryCache,
    NoSidecar,
    Receipt,
    Session,
    Settings,
    WatchBump,
    WatchStarted,
    depends_on,
)

PATIENT = Settings(resolve_deadline_s=5.0, commit_deadline_s=5.0, turn_deadline_s=5.0)
STRATEGIES = ["versioned", "registered", "bucketed"]


def const(value: Any) -> Callable[[], Awaitable[Any]]:
    async def load() -> Any:
        return value

    return load


async def never() -> Any:
    raise AssertionError("the loader ran")


def with_client(
    cluster: Cluster, test: Callable[[AsyncClient], Awaitable[None]], cache: Any = "memory://", **more: Any
) -> None:
    async def run() -> None:
        async with AsyncClient(cluster[0].tcp, cache=cache, settings=more.pop("settings", PATIENT), **more) as client:
            await client.wait_until_ready()
            await test(client)

    asyncio.run(asyncio.wait_for(run(), 120))


async def until(what: str, is_so: Callable[[], bool]) -> None:
    for _ in range(3_000):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within 30 s: {what}")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_reads_hit_follow_bumps_and_are_fenced(cluster: Cluster, cache_url: str, n: int, strategy: str) -> None:
    async def test(client: AsyncClient) -> None:
        address, classes = f"{strategy}::{n}", [f"{strategy}/{n}"]
        read = await client.get_or_fill_outcome(address, classes, const([1]))
        assert (read.value, read.how, read.stored) == ([1], How.FILLED, True)
        assert (await client.get_or_fill_outcome(address, classes, never)).how is How.HIT
        assert (await client.invalidate(classes, receipt=Receipt.ALL)).receipt_satisfied

        async def overtaken() -> str:
            depends_on(f"prices/{n}")
            await client.invalidate([f"prices/{n}"])
            return "old"

        assert await client.get_or_fill(address, classes, overtaken) == "old"
        assert client.stats().condemned == 1
        assert await client.get_or_fill(address, classes, const("new")) == "new"
        assert await client.get_or_fill(address, classes, never) == "new"

    with_client(cluster, test, cache_url)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "elected"])
def test_a_thousand_tasks_that_miss_fill_once_and_look_up_in_few_calls(
    cluster: Cluster, cache_url: str, n: int, strategy: str
) -> None:
    async def test(client: AsyncClient) -> None:
        loads = 0

        async def load() -> int:
            nonlocal loads
            loads += 1
            await until("all have missed", lambda: client.stats().misses == 1_000)
            return 7

        async def read() -> Any:
            return await client.get_or_fill_outcome(f"{strategy}::{n}", [f"{strategy}/{n}"], load)

        reads = await asyncio.gather(*(read() for _ in range(1_000)))
        assert loads == 1
        assert sorted(each.how.value for each in reads) == ["filled"] + ["waited"] * 999
        stats = client.stats()
        assert stats.resolve_items == 1_000
        # Two lone ones ahead, then what waited, at most 1,000 at a time.
        assert stats.resolve_rpcs <= 10

    with_client(cluster, test, cache_url)


def test_a_cancelled_leader_leaves_the_fill_to_the_next_one(cluster: Cluster, n: int) -> None:
    async def test(client: AsyncClient) -> None:
        async def hangs() -> int:
            await asyncio.Event().wait()
            return 1

        first = asyncio.create_task(client.get_or_fill(f"a::{n}", [f"cart/{n}"], hangs))
        await until("it fills", lambda: client.stats().fills == 1)
        second = asyncio.create_task(client.get_or_fill(f"a::{n}", [f"cart/{n}"], const(2)))
        await until("the other one waits", lambda: client.stats().misses == 2)
        first.cancel()
        assert await second == 2
        assert client.stats().takeovers == 1

    with_client(cluster, test)


def test_one_malformed_look_up_does_not_spoil_those_that_travel_with_it(cluster: Cluster, n: int) -> None:
    async def test(client: AsyncClient) -> None:
        # Fits as it is, and not once it is decorated: only the sidecar knows that.
        names = [f"a::{n}:{number}" for number in range(40)] + ["x" * 250]
        reads = await asyncio.gather(
            *(client.get_or_fill(name, [f"cart/{n}"], const(7)) for name in names), return_exceptions=True
        )
        assert reads[:-1] == [7] * 40
        assert isinstance(reads[-1], InvalidRequest)
        assert reads[-1].violations[0].field == "address"
        assert client.stats().bypasses == 0

    with_client(cluster, test)


def test_g10_more_look_ups_than_the_queue_takes_are_bypassed(cluster: Cluster, n: int) -> None:
    async def test(client: AsyncClient) -> None:
        reads = await asyncio.gather(
            *(client.get_or_fill_outcome(f"a::{n}:{number}", [f"cart/{n}"], const(number)) for number in range(100))
        )
        assert [each.value for each in reads] == list(range(100))
        reasons = [each.bypass_reason for each in reads if each.how is How.BYPASSED]
        assert reasons == [BypassReason.OVERLOADED] * 88
        assert client.stats().bypass_overloaded == 88

    with_client(cluster, test, settings=Settings(resolve_deadline_s=5, resolve_queue_max=10))


def test_writes_snapshots_slices_and_sessions(cluster: Cluster, n: int) -> None:
    async def test(client: AsyncClient) -> None:
        address, classes = f"a::{n}", [f"cart/{n}"]
        snapshot = await client.open_snapshot()
        assert (await client.get_or_fill_outcome(address, classes, const("old"), snapshot=snapshot)).stored
        async with client.begin_write(classes) as write:
            assert write.remaining_s > 0
        assert write.outcome is not None
        session = Session(wait_s=10)
        session.add(write.outcome.session_token)
        assert await client.get_or_fill(address, classes, const("new"), session=session) == "new"
        async with client.begin_write(classes) as write:
            assert await write.abort() is AbortOutcome.NOTHING_BUMPED
        with pytest.raises(LookupError):
            async with client.begin_write(classes, lease_s=30) as write:
                raise LookupError
        assert not write.ended
        assert await client.get_or_fill(address, classes, never) == "new"

        async def page(offset: int, limit: int) -> range:
            return range(offset, min(offset + limit, 33))

        slice_ = await client.get_or_fill_page(f"l::{n}", [f"paged/{n}"], 15, 100, page)
        assert slice_.items == list(range(15, 33))
        assert (await client.resolve_many([(address, classes), (f"b::{n}", classes)]))[0].token == (
            await client.resolve(address, classes)
        ).token

    with_client(cluster, test)


def test_a_stale_value_is_served_while_a_task_computes_the_new_one(cluster: Cluster, n: int) -> None:
    async def test(client: AsyncClient) -> None:
        address, classes = f"a::{n}", [f"soft/{n}"]
        await client.get_or_fill(address, classes, const("old"))
        await client.invalidate(classes, soft=True)
        read = await client.get_or_fill_outcome(address, classes, const("new"), serve_stale=True)
        assert (read.value, read.how) == ("old", How.STALE)
        await until("the new one is stored", lambda: client.stats().stored == 2)
        assert await client.get_or_fill(address, classes, never, serve_stale=True) == "new"

    with_client(cluster, test)


def test_a_loader_that_is_no_coroutine_function_is_named(cluster: Cluster, n: int) -> None:
    async def test(client: AsyncClient) -> None:
        for loader, says in (
            (lambda: 7, "it answered a int; an AsyncClient's must be a coroutine"),
            (7, "7 is an int"),
        ):
            with pytest.raises(InvalidRequest, match=f"loader: {says}"):
                await client.get_or_fill(f"a::{n}", [f"cart/{n}"], loader)  # type: ignore[arg-type]

    with_client(cluster, test)


def test_bumps_are_watched(cluster: Cluster, n: int) -> None:
    async def test(client: AsyncClient) -> None:
        async with client.watch([f"cart/{n}"]) as watch:
            assert isinstance(await anext(watch), WatchStarted)
            outcome = await client.invalidate([f"cart/{n}"])
            assert await anext(watch) == WatchBump(outcome.event, (f"cart/{n}",), False)
            waiting = asyncio.create_task(anext(watch))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    with_client(cluster, test)


def test_a_watch_that_another_task_closes_ends(cluster: Cluster, n: int) -> None:
    async def test(client: AsyncClient) -> None:
        watch = client.watch([f"cart/{n}"])
        assert isinstance(await anext(watch), WatchStarted)

        async def rest() -> list[object]:
            return [event async for event in watch]

        waiting = asyncio.create_task(rest())
        # It is at its next read when it has run.
        await asyncio.sleep(0)
        watch.close()
        assert await waiting == []

    with_client(cluster, test)


def test_a_sidecar_that_is_gone_is_bypassed_and_comes_back(own_cluster: Cluster) -> None:
    cache = MemoryCache()

    async def test(client: AsyncClient) -> None:
        assert await client.get_or_fill("a", ["cart/1"], const("old")) == "old"
        own_cluster[0].kill()
        reads = await asyncio.gather(
            *(client.get_or_fill_outcome("a", ["cart/1"], const(number)) for number in range(200))
        )
        assert [each.value for each in reads] == list(range(200))
        assert {each.bypass_reason for each in reads} == {BypassReason.UNREACHABLE}
        with pytest.raises(NoSidecar):
            await client.invalidate(["cart/1"])
        own_cluster[0].start()
        for _ in range(3_000):
            if (await client.get_or_fill_outcome("a", ["cart/1"], const("new"))).how is How.HIT:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it does not come back")

    with_client(own_cluster, test, InlineCache(cache))


def test_a_client_is_of_one_loop_and_says_so(cluster: Cluster) -> None:
    client = AsyncClient(cluster[0].tcp, settings=PATIENT)
    asyncio.run(client.status())  # type: ignore[arg-type]
    with pytest.raises(GrapevineError, match="belongs to the event loop that first used it"):
        asyncio.run(client.status())  # type: ignore[arg-type]
