"""The blocking client, for threads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

from grapevine_client._base import Base, WatchCore, WatchEvent, WriteCore
from grapevine_client._calls import Snapshot
from grapevine_client._io import BlockingIo, run
from grapevine_client.caches import Cache, InlineCache, connect_cache
from grapevine_client.codecs import Codec
from grapevine_client.errors import ConfigError, InvalidRequest
from grapevine_client.names import check_callable
from grapevine_client.outcome import AbortOutcome, InvalidateOutcome, Outcome, PageOutcome, Receipt, Resolution, Status
from grapevine_client.session import Session
from grapevine_client.settings import Settings

T = TypeVar("T")
Seconds = float | timedelta | None


class Client:
    """A sidecar, and a cache to read through. For any number of threads; one per process is right."""

    def __init__(
        self,
        endpoint: str,
        *,
        cache: Cache | str | None = None,
        fail_over_to: Sequence[str] = (),
        codec: Codec | None = None,
        settings: Settings | None = None,
    ) -> None:
        """`endpoint` is the own sidecar: `unix:/path`, `http://host:port` or `host:port`. `fail_over_to` are others, which
        invalidations are handed to when the own one does not answer. `cache` is a `Cache` or its URL (`connect_cache`). Values
        are JSON unless another codec is given. Nothing is connected before the first call; `wait_until_ready` connects."""
        if isinstance(cache, str):
            cache = connect_cache(cache)
        if cache is not None and not isinstance(cache, Cache):
            raise ConfigError(
                f"cache is a {type(cache).__name__}; it must be a Cache, a RedisCache(client) say, or a URL"
            )
        self._base = Base(
            endpoint,
            None if cache is None else InlineCache(cache),
            fail_over_to,
            codec,
            settings,
            BlockingIo(),
            batched=False,
        )
        self.cache = cache
        self.stats = self._base.stats

    def report(self) -> None:
        """Tells the own sidecar, for its metrics, how reads fared since the last report, as the client does by itself every
        `Settings.report_every_s` while it reads. Raises a `CallError` if there is no answer: then the next report tells it."""
        run(self._base._report())

    def close(self) -> None:
        """Closes the connections, those to the cache included. What was not reported yet is told first, if the own sidecar answers
        within half a second."""
        run(self._base._close())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> Status:
        """The own sidecar's state."""
        return run(self._base._calls.status())

    def wait_until_ready(self, timeout_s: float = 10.0) -> Status:
        """Connects, and waits until the own sidecar answers; then raises the last error, and at once one that waiting does not
        change (`Refused` at the peers' port, say). A process that does this before its first read does not spend that read's
        deadline on connecting."""
        return run(self._base._wait_until_ready(timeout_s))

    def resolve(
        self,
        address: str,
        classes: Iterable[str],
        *,
        session: Session | None = None,
        snapshot: Snapshot | None = None,
    ) -> Resolution:
        """Looks up which cache address to use for a value now, and whether it may be believed. Most programs want `get_or_fill`."""
        return run(self._base._resolve(address, classes, session, snapshot))

    def resolve_many(
        self, items: Iterable[tuple[str, Iterable[str]]], *, session: Session | None = None
    ) -> list[Resolution]:
        """The same for up to 1,000 addresses with their classes, in one call."""
        return run(self._base._resolve_many(items, session))

    def get_or_fill(
        self,
        address: str,
        classes: Iterable[str],
        loader: Callable[[], T],
        *,
        ttl_s: Seconds = None,
        session: Session | None = None,
        snapshot: Snapshot | None = None,
        serve_stale: bool = False,
        codec: Codec | None = None,
    ) -> T:
        """The value at `address`, from the cache or else from `loader`, whose result is stored for the policy's TTL or `ttl_s`,
        whichever is shorter.

        Of concurrent callers in this process that miss the same value one runs its loader and the others get its result; an
        error goes to all of them and is not stored. Without a usable answer of the sidecar the loader runs and nothing is stored.
        What comes back has been through the codec. With `serve_stale` a value that a soft invalidation has replaced is given at
        once where policy allows it, and a thread computes the new one."""
        return self.get_or_fill_outcome(
            address,
            classes,
            loader,
            ttl_s=ttl_s,
            session=session,
            snapshot=snapshot,
            serve_stale=serve_stale,
            codec=codec,
        ).value

    def get_or_fill_outcome(
        self,
        address: str,
        classes: Iterable[str],
        loader: Callable[[], T],
        *,
        ttl_s: Seconds = None,
        session: Session | None = None,
        snapshot: Snapshot | None = None,
        serve_stale: bool = False,
        codec: Codec | None = None,
    ) -> Outcome[T]:
        """The same, with where the value came from."""
        check_callable("loader", loader)

        async def load() -> T:
            return _plain(loader())

        return run(self._base._get(address, classes, load, ttl_s, session, snapshot, serve_stale, codec))

    def get_or_fill_page(
        self,
        address: str,
        classes: Iterable[str],
        offset: int,
        limit: int,
        loader: Callable[[int, int], Iterable[T]],
        *,
        ttl_s: Seconds = None,
        session: Session | None = None,
        snapshot: Snapshot | None = None,
    ) -> PageOutcome[T]:
        """`limit` items of a list after the first `offset`, from cached pages or else from `loader(offset, limit)`, which is asked
        for whole pages, and gives fewer items than asked for only at the list's end. For classes whose policy sets a page size."""
        check_callable("loader", loader)

        async def load(skip: int, most: int) -> Iterable[T]:
            return _plain(loader(skip, most))

        return run(self._base._get_page(address, classes, offset, limit, load, ttl_s, session, snapshot))

    def open_snapshot(self, *, lease_s: float | None = None, session: Session | None = None) -> Snapshot:
        """Marks the moment before a database snapshot begins: call it, begin the transaction, and give it to each read whose
        loader reads inside. If it fails, take `Snapshot()`: reads work, and store nothing."""
        return run(self._base._calls.open_snapshot(lease_s, session))

    def invalidate(
        self,
        classes: Iterable[str],
        *,
        receipt: Receipt = Receipt.ONE,
        match_all: bool = False,
        soft: bool = False,
        timeout_s: Seconds = None,
        session: Session | None = None,
    ) -> InvalidateOutcome:
        """Declares classes changed, each covering everything below it. Call it once the change is visible to the reads that fill
        the cache: after the commit, not before. Raises `NoSidecar` if nobody acknowledged it, and `Refused` if a sidecar said what
        every one would: that this is not its port for applications, say."""
        bump, level, timeout, past = self._base._invalidation(classes, receipt, match_all, soft, timeout_s, session)
        return run(self._base._calls.invalidate(bump, level, timeout, past))

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
    ) -> Write:
        """Declares a write before the database commits it, so that its classes are bumped even if this process dies right after
        the commit. **The call alone begins nothing**: `with` does, or `begin()` of what it answers. When it cannot be begun
        (`NoSidecar` or `Refused`, as of `invalidate`), refuse the write: nobody would bump for it."""
        return Write(self._base, classes, match_all, soft, lease_s, timeout_s, receipt, session)

    def watch(self, classes: Iterable[str] = ()) -> Watch:
        """Watches bumps at, below or above up to 100 classes; none means all."""
        return Watch(self._base, classes)


def _plain(value: T) -> T:
    """What a loader answered; says what the loader should have been if it is a coroutine function."""
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            # Nobody will await it, which Python would warn of.
            value.close()
        raise InvalidRequest.one(
            "loader",
            f"it answered a {type(value).__name__}; a Client's must be a plain function, and a coroutine function takes an"
            " AsyncClient",
        )
    return value


class Write(WriteCore):
    """See `WriteCore`; made by `Client.begin_write`."""

    __doc__ = WriteCore.__doc__

    def begin(self) -> Write:
        run(self._begin())
        return self

    def commit(self) -> InvalidateOutcome:
        """Ends it after the database committed. If nobody answers, the classes are bumped when the lease ends."""
        return run(self._commit())

    def abort(self) -> AbortOutcome:
        """Ends it without a bump: only for a transaction that has not committed and never will."""
        return run(self._abort())

    def __enter__(self) -> Write:
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self.ended:
            self.commit()


class Watch:
    """An iterator over what the own sidecar applies. Iterating blocks; `close`, from any thread, ends it."""

    def __init__(self, base: Base, classes: Iterable[str]) -> None:
        self._core = WatchCore(base, classes)

    def __iter__(self) -> Iterator[WatchEvent]:
        return self

    def __next__(self) -> WatchEvent:
        event = run(self._core.next())
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        self._core.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
