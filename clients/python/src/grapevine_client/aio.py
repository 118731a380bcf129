"""The client for asyncio. As `Client`, but that it belongs to the event loop that first used it, and that look-ups of many tasks
travel together."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from grapevine_client._base import Base, WatchCore, WatchEvent, WriteCore
from grapevine_client._calls import Snapshot
from grapevine_client._io import AsyncioIo
from grapevine_client.caches import AsyncCache, connect_async_cache
from grapevine_client.client import Seconds
from grapevine_client.codecs import Codec
from grapevine_client.errors import ConfigError, InvalidRequest
from grapevine_client.names import check_callable
from grapevine_client.outcome import AbortOutcome, InvalidateOutcome, Outcome, PageOutcome, Receipt, Resolution, Status
from grapevine_client.session import Session
from grapevine_client.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


class AsyncClient:
    """A sidecar, and a cache to read through. For any number of tasks of one event loop; one per process is right."""

    def __init__(
        self,
        endpoint: str,
        *,
        cache: AsyncCache | str | None = None,
        fail_over_to: Sequence[str] = (),
        codec: Codec | None = None,
        settings: Settings | None = None,
    ) -> None:
        """As of `Client`; `cache` is an `AsyncCache` or a URL (`connect_async_cache`)."""
        if isinstance(cache, str):
            cache = connect_async_cache(cache)
        if cache is not None and not inspect.iscoroutinefunction(getattr(cache, "get", None)):
            raise ConfigError(
                f"cache is a {type(cache).__name__}; it must be an AsyncCache, an AsyncRedisCache(client) or an"
                " ExecutorCache(PymemcacheCache(client)) say, or a URL"
            )
        self._base = Base(endpoint, cache, fail_over_to, codec, settings, AsyncioIo(), batched=True)
        self.cache = cache
        self.stats = self._base.stats

    async def report(self) -> None:
        """As `Client.report`."""
        await self._base._report()

    async def close(self) -> None:
        """As `Client.close`."""
        await self._base._close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def status(self) -> Status:
        """The own sidecar's state."""
        return await self._base._calls.status()

    async def wait_until_ready(self, timeout_s: float = 10.0) -> Status:
        """As `Client.wait_until_ready`."""
        return await self._base._wait_until_ready(timeout_s)

    async def resolve(
        self,
        address: str,
        classes: Iterable[str],
        *,
        session: Session | None = None,
        snapshot: Snapshot | None = None,
    ) -> Resolution:
        """As `Client.resolve`."""
        return await self._base._resolve(address, classes, session, snapshot)

    async def resolve_many(
        self, items: Iterable[tuple[str, Iterable[str]]], *, session: Session | None = None
    ) -> list[Resolution]:
        """As `Client.resolve_many`."""
        return await self._base._resolve_many(items, session)

    async def get_or_fill(
        self,
        address: str,
        classes: Iterable[str],
        loader: Callable[[], Awaitable[T]],
        *,
        ttl_s: Seconds = None,
        session: Session | None = None,
        snapshot: Snapshot | None = None,
        serve_stale: bool = False,
        codec: Codec | None = None,
    ) -> T:
        """As `Client.get_or_fill`. `loader` runs in this task; if it is cancelled, another one that waits runs its own."""
        outcome = await self.get_or_fill_outcome(
            address,
            classes,
            loader,
            ttl_s=ttl_s,
            session=session,
            snapshot=snapshot,
            serve_stale=serve_stale,
            codec=codec,
        )
        return outcome.value

    async def get_or_fill_outcome(
        self,
        address: str,
        classes: Iterable[str],
        loader: Callable[[], Awaitable[T]],
        *,
        ttl_s: Seconds = None,
        session: Session | None = None,
        snapshot: Snapshot | None = None,
        serve_stale: bool = False,
        codec: Codec | None = None,
    ) -> Outcome[T]:
        """The same, with where the value came from."""
        return await self._base._get(address, classes, _coroutine(loader), ttl_s, session, snapshot, serve_stale, codec)

    async def get_or_fill_page(
        self,
        address: str,
        classes: Iterable[str],
        offset: int,
        limit: int,
        loader: Callable[[int, int], Awaitable[Iterable[T]]],
        *,
        ttl_s: Seconds = None,
        session: Session | None = None,
        snapshot: Snapshot | None = None,
    ) -> PageOutcome[T]:
        """As `Client.get_or_fill_page`."""
        return await self._base._get_page(address, classes, offset, limit, _coroutine(loader), ttl_s, session, snapshot)

    async def open_snapshot(self, *, lease_s: float | None = None, session: Session | None = None) -> Snapshot:
        """As `Client.open_snapshot`."""
        return await self._base._calls.open_snapshot(lease_s, session)

    async def invalidate(
        self,
        classes: Iterable[str],
        *,
        receipt: Receipt = Receipt.ONE,
        match_all: bool = False,
        soft: bool = False,
        timeout_s: Seconds = None,
        session: Session | None = None,
    ) -> InvalidateOutcome:
        """As `Client.invalidate`."""
        bump, level, timeout, past = self._base._invalidation(classes, receipt, match_all, soft, timeout_s, session)
        return await self._base._calls.invalidate(bump, level, timeout, past)

    def begin_write(
        self,
        classes: Iterable[str],
        *,
        lease_s: Seconds = None,
        receipt: Receipt = Receipt.ONE,
        match_all: bool = False,
        soft: bool = False,
        timeout_s: Seconds = None,
        session: Session | None = None,
    ) -> AsyncWrite:
        """As `Client.begin_write`, for `async with`: **the call alone begins nothing**. Without `async with` await `begin()` of
        what it answers."""
        return AsyncWrite(self._base, classes, match_all, soft, lease_s, timeout_s, receipt, session)

    def watch(self, classes: Iterable[str] = ()) -> AsyncWatch:
        """As `Client.watch`, for `async for`."""
        return AsyncWatch(self._base, classes)


def _coroutine(loader: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """The loader, which says what it should have been if it is a plain function."""
    check_callable("loader", loader)

    async def load(*args: P.args, **kwargs: P.kwargs) -> T:
        answer: object = loader(*args, **kwargs)
        if not isinstance(answer, Awaitable):
            raise InvalidRequest.one(
                "loader", f"it answered a {type(answer).__name__}; an AsyncClient's must be a coroutine function"
            )
        value: T = await answer
        return value

    return load


class AsyncWrite(WriteCore):
    """See `WriteCore`; made by `AsyncClient.begin_write`."""

    __doc__ = WriteCore.__doc__

    async def begin(self) -> AsyncWrite:
        await self._begin()
        return self

    async def commit(self) -> InvalidateOutcome:
        """Ends it after the database committed. If nobody answers, the classes are bumped when the lease ends."""
        return await self._commit()

    async def abort(self) -> AbortOutcome:
        """Ends it without a bump: only for a transaction that has not committed and never will."""
        return await self._abort()

    async def __aenter__(self) -> AsyncWrite:
        return await self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self.ended:
            await self.commit()


class AsyncWatch:
    """An asynchronous iterator over what the own sidecar applies."""

    def __init__(self, base: Base, classes: Iterable[str]) -> None:
        self._core = WatchCore(base, classes)

    def __aiter__(self) -> AsyncIterator[WatchEvent]:
        return self

    async def __anext__(self) -> WatchEvent:
        event = await self._core.next()
        if event is None:
            raise StopAsyncIteration
        return event

    def close(self) -> None:
        self._core.close()

    async def __aenter__(self) -> AsyncWatch:
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.close()
