"""What `Client` and `AsyncClient` have in common: everything but how they wait."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grapevine_client import names
from grapevine_client._calls import Batcher, Bump, Calls, Intent, Snapshot, item
from grapevine_client._fence import Fence, Got, Past
from grapevine_client._io import Io, Stream
from grapevine_client._reports import Reports
from grapevine_client._stubs.grapevine.v1 import application_pb2 as app
from grapevine_client.caches import AsyncCache
from grapevine_client.codecs import Codec, JsonCodec
from grapevine_client.errors import CallError, CodecError, ConfigError, GrapevineError, InvalidRequest, NoAnswer
from grapevine_client.gate import pause_s
from grapevine_client.outcome import (
    AbortOutcome,
    EventId,
    How,
    InvalidateOutcome,
    Outcome,
    PageOutcome,
    Receipt,
    Resolution,
    Status,
    event_id,
)
from grapevine_client.session import Session, current_session
from grapevine_client.settings import Settings
from grapevine_client.stats import Counters, Stats

_log = logging.getLogger("grapevine_client")

_DEFAULT_SETTINGS = Settings()
_JSON = JsonCodec()
_READY_PAUSE_S = 0.02
_CODECS = "JsonCodec(), PickleCodec(), BytesCodec() or an object with dumps, loads and name"


class Base:
    """The parts of a client. Nothing is connected before the first call."""

    def __init__(
        self,
        endpoint: str,
        cache: AsyncCache | None,
        fail_over_to: Sequence[str],
        codec: Codec | None,
        settings: Settings | None,
        io: Io,
        batched: bool,
    ) -> None:
        self._counters = Counters()
        self._settings = settings if settings is not None else _DEFAULT_SETTINGS
        if codec is not None and not _is_codec(codec):
            raise ConfigError(f"codec is {names.shorten(codec)}; it must be {_CODECS}")
        self._codec = codec if codec is not None else _JSON
        self._calls = Calls(endpoint, fail_over_to, io, self._settings, self._counters)
        self._reports = Reports(self._calls)
        self._cache = cache
        batcher = Batcher(self._calls) if batched else None
        self._fence = Fence(self._calls, cache, batcher) if cache is not None else None

    def stats(self) -> Stats:
        """What this client has done since it was built."""
        return self._counters.snapshot()

    async def _wait_until_ready(self, timeout_s: float) -> Status:
        ends = time.monotonic() + timeout_s
        while True:
            try:
                return await self._calls.status()
            except CallError as error:
                # What every sidecar would say to this is the caller's to mend: another port than that for applications, say.
                if not error.may_differ_elsewhere or time.monotonic() >= ends:
                    raise
                await self._calls.io.sleep(_READY_PAUSE_S)

    async def _report(self) -> None:
        await self._reports.tell_now()

    async def _close(self) -> None:
        try:
            await self._reports.finish()
        finally:
            await self._calls.close()
            if self._cache is not None:
                await self._cache.close()

    async def _resolve(
        self, address: str, classes: Iterable[str], session: Session | None, snapshot: Snapshot | None
    ) -> Resolution:
        names.check_address("address", address)
        checked = names.check_classes("classes", classes, names.CLASSES_MAX)
        wire, around = await self._calls.resolve_one(address, checked, None, _session(session), _snapshot(snapshot))
        return Resolution.of(wire, around)

    async def _resolve_many(
        self, items: Iterable[tuple[str, Iterable[str]]], session: Session | None
    ) -> list[Resolution]:
        wire = []
        for index, (address, classes) in enumerate(items):
            names.check_address(f"items[{index}].address", address)
            checked = names.check_classes(f"items[{index}].classes", classes, names.CLASSES_MAX)
            wire.append(item(address, checked))
        if not 1 <= len(wire) <= names.BATCH_MAX:
            raise InvalidRequest.one("items", f"{len(wire)} look-ups are outside 1 to {names.BATCH_MAX}")
        answer = await self._calls.resolve(wire, _session(session), None)
        return [Resolution.of(each, answer) for each in answer.results]

    async def _get(
        self,
        address: str,
        classes: Iterable[str],
        load: Callable[[], Awaitable[Any]],
        ttl_s: object,
        session: Session | None,
        snapshot: Snapshot | None,
        serve_stale: bool,
        codec: Codec | None,
    ) -> Outcome[Any]:
        fence = self._need_cache()
        if codec is None:
            codec = self._codec
        elif not _is_codec(codec):
            raise InvalidRequest.one("codec", f"{names.shorten(codec)} is no codec; it must be {_CODECS}")
        names.check_address("address", address)
        checked = names.check_classes("classes", classes, names.CLASSES_MAX)
        ttl_ms = names.check_ttl("ttl_s", ttl_s)
        past = Past(_session(session), _snapshot(snapshot))

        async def loader() -> bytes:
            return _encode(codec, address, await load())

        try:
            got = await fence.get(address, checked, ttl_ms, loader, past, serve_stale)
            decoded, value = self._decode(codec, got)
            if not decoded:
                got = await fence.get(address, checked, ttl_ms, loader, past, fresh=True)
                decoded, value = self._decode(codec, got)
        finally:
            self._reports.send_if_due()
        if not decoded:
            # Others store what this codec cannot read faster than this reader can: the value is its own.
            got = Got(await loader(), How.FILLED)
            value = codec.loads(got.data)
        return Outcome(value, got.how, got.stored, got.token, got.bypass)

    def _decode(self, codec: Codec, got: Got) -> tuple[bool, Any]:
        try:
            return True, codec.loads(got.data)
        except Exception:
            if got.how not in (How.HIT, How.STALE, How.WAITED):
                # What this codec has just written.
                raise
            self._counters.add("undecodable")
            return False, None

    async def _get_page(
        self,
        address: str,
        classes: Iterable[str],
        offset: int,
        limit: int,
        load: Callable[[int, int], Awaitable[Iterable[Any]]],
        ttl_s: object,
        session: Session | None,
        snapshot: Snapshot | None,
    ) -> PageOutcome[Any]:
        fence, codec = self._need_cache(), self._codec
        names.check_address("address", address)
        checked = names.check_classes("classes", classes, names.CLASSES_MAX)
        page, ttl_ms = names.check_slice(offset, limit), names.check_ttl("ttl_s", ttl_s)

        async def loader(skip: int, most: int) -> list[bytes]:
            return [_encode(codec, address, each) for each in _items(await load(skip, most))]

        past = Past(_session(session), _snapshot(snapshot))
        try:
            items, gots = await fence.get_page(address, checked, page, ttl_ms, loader, past)
        finally:
            self._reports.send_if_due()
        how = How.HIT
        for got in gots:
            how = how.or_dearer(got.how)
        bypass = gots[-1].bypass
        return PageOutcome(
            [codec.loads(each) for each in items],
            how,
            0 if bypass else len(gots),
            sum(got.how is How.HIT for got in gots),
            sum(got.stored for got in gots),
            bypass,
        )

    def _need_cache(self) -> Fence:
        if self._fence is None:
            raise ConfigError("the client was built without a cache: pass cache=... to read through one")
        return self._fence

    def _invalidation(
        self,
        classes: Iterable[str],
        receipt: Receipt,
        match_all: bool,
        soft: bool,
        timeout_s: object,
        session: Session | None,
    ) -> tuple[Bump, Receipt, float, Session | None]:
        """The arguments of an invalidation, checked."""
        listed = names.check_classes("classes", classes, names.INVALIDATE_CLASSES_MAX, ordered=False)
        if not isinstance(receipt, Receipt):
            raise InvalidRequest.one("receipt", f"{names.shorten(receipt)} is no Receipt; write Receipt.ALL say")
        return Bump.of(listed, match_all, soft), receipt, self._timeout_s(timeout_s), _session(session)

    def _timeout_s(self, timeout_s: object) -> float:
        if timeout_s is None:
            return self._settings.invalidate_timeout_s
        return names.check_seconds("timeout_s", timeout_s, names.TIMEOUT_S_MIN, names.TIMEOUT_S_MAX)


@dataclass(frozen=True)
class WatchStarted:
    """Everything applied from now on will be told."""

    incarnation: bytes


@dataclass(frozen=True)
class WatchBump:
    """Classes changed."""

    event: EventId
    classes: tuple[str, ...]
    match_all: bool


@dataclass(frozen=True)
class WatchLost:
    """The stream ended, and it is being connected again: from now on nothing is heard. Told once, until a `WatchResync`."""

    reason: str


@dataclass(frozen=True)
class WatchResync:
    """Something was missed: treat everything watched as changed. `missed` is how many messages, where there is a number;
    `reconnected` says that it was the connection that broke."""

    missed: int
    reconnected: bool


WatchEvent = WatchStarted | WatchBump | WatchLost | WatchResync


class WatchCore:
    """Watching bumps, across reconnects. A watcher is never left with silence instead of news: while calls are open the
    connection is probed, and one that is dead is noticed within about ten seconds."""

    def __init__(self, base: Base, classes: Iterable[str]) -> None:
        listed = classes if isinstance(classes, str) or not isinstance(classes, Iterable) else tuple(classes)
        # None of them means all.
        if listed != ():
            listed = names.check_classes("classes", listed, names.WATCH_CLASSES_MAX, ordered=False)
        self._classes = listed
        self._calls, self._settings = base._calls, base._settings
        self._stream: Stream | None = None
        self._began = self._live = False
        self._failures = 0
        self._pause_until = 0.0
        self.closed = False

    def close(self) -> None:
        """Ends it, also from another thread."""
        self.closed = True
        if self._stream is not None:
            self._stream.cancel()

    async def next(self) -> WatchEvent | None:
        """The next event, or None once it is closed. Raises what trying again would not change."""
        while not self.closed:
            link = self._calls.own
            fresh = self._stream is None
            if fresh:
                await self._calls.io.sleep(max(0.0, self._pause_until - time.monotonic()))
                if self.closed:
                    break
                self._stream = link.stream(link.streams.Watch, app.WatchRequest(classes=self._classes))
            assert self._stream is not None
            # The first message comes at once; then there may be nothing to tell for hours.
            deadline_s = self._settings.call_deadline_s if fresh else None
            try:
                message = await link.read(self._stream, deadline_s)
                if message is None:
                    raise NoAnswer(link.name, "ended the stream, as it does when it drains")
            except (CallError, InvalidRequest) as error:
                if self.closed:
                    break
                if isinstance(error, InvalidRequest) or not error.may_differ_elsewhere:
                    self.close()
                    raise
                event: WatchEvent | None = self._lost(str(error))
            else:
                event = self._translate(message)
            if event is not None:
                return event
        return None

    def _lost(self, reason: str) -> WatchLost | None:
        self._stream = None
        settings = self._settings
        pause = pause_s(settings.backoff_min_s, settings.backoff_max_s, self._failures)
        self._pause_until = time.monotonic() + pause
        self._failures += 1
        was_live, self._live = self._live, False
        return WatchLost(reason) if was_live else None

    def _translate(self, message: Any) -> WatchEvent | None:
        """A message without a kind is of a later contract, and nothing that this one promises."""
        kind = message.WhichOneof("kind")
        if kind == "started":
            self._failures, self._live = 0, True
            began, self._began = self._began, True
            if began:
                return WatchResync(0, True)
            return WatchStarted(message.started.incarnation)
        if kind == "bump":
            bump = message.bump
            return WatchBump(event_id(bump.event), tuple(bump.classes), bump.match == app.MATCH_ALL)
        if kind == "resync":
            return WatchResync(message.resync.missed, False)
        return None


class WriteCore:
    """A write that is declared before the database commits it (G8): bumped by its commit, or when its lease ends.

    `with` begins it, and so does `begin`; before that nothing is declared. `with` commits it when the block ends without an error,
    and `outcome` then says what that came to (its `session_token` is for `Session.add`); without `with` call `commit`. **An error
    in the block neither commits nor aborts**: the intent stays open and its classes are bumped when the lease ends, for nobody
    knows whether the database has committed. Call `abort` for what certainly was not. The transaction's own timeout must lie below
    `remaining_s`.
    """

    def __init__(
        self,
        base: Base,
        classes: Iterable[str],
        match_all: bool,
        soft: bool,
        lease_s: object,
        timeout_s: object,
        receipt: Receipt,
        session: Session | None,
    ) -> None:
        self._base = base
        self._bump, self._receipt, self._timeout, self._session = base._invalidation(
            classes, receipt, match_all, soft, timeout_s, session
        )
        least, most = names.WRITE_LEASE_S_MIN, names.WRITE_LEASE_S_MAX
        self._lease_s = None if lease_s is None else names.check_seconds("lease_s", lease_s, least, most)
        self._intent: Intent | None = None
        self.ended = False
        """Whether it was committed or aborted here."""
        self.outcome: InvalidateOutcome | None = None
        """What the commit came to."""

    @property
    def intent(self) -> bytes:
        """The intent, to be handed to another process: opaque, at most 64 bytes."""
        return self._begun().token

    @property
    def lease_s(self) -> float:
        """The lease granted."""
        return self._begun().lease_s

    @property
    def remaining_s(self) -> float:
        """What is left of the lease: by then the database must have committed, or never will."""
        return max(0.0, self._begun().ends_at - time.monotonic())

    @property
    def begun_by(self) -> str:
        """The endpoint that began it, as configured."""
        return self._begun().begun_by

    def _begun(self) -> Intent:
        if self._intent is None:
            raise GrapevineError("the write has not begun: use it in a `with` statement, or call `begin` first")
        return self._intent

    async def _begin(self) -> None:
        if self._intent is not None:
            raise GrapevineError("the write has begun already; declare another one")
        self._intent = await self._base._calls.begin_write(self._bump, self._lease_s, self._timeout, self._session)

    async def _commit(self) -> InvalidateOutcome:
        intent = self._begun()
        self._end()
        self.outcome = await self._base._calls.invalidate(
            self._bump, self._receipt, self._timeout, self._session, intent
        )
        return self.outcome

    async def _abort(self) -> AbortOutcome:
        intent = self._begun()
        self._end()
        return await self._base._calls.abort_write(intent.token, intent.position)

    def _end(self) -> None:
        if self.ended:
            raise GrapevineError("the write was committed or aborted already")
        self.ended = True


def _session(given: Session | None) -> Session | None:
    session = given if given is not None else current_session()
    if session is not None and not isinstance(session, Session):
        raise InvalidRequest.one("session", f"{names.shorten(session)} is no Session; read a header by Session.parse")
    return session


def _snapshot(given: Snapshot | None) -> Snapshot | None:
    if given is not None and not isinstance(given, Snapshot):
        raise InvalidRequest.one("snapshot", f"{names.shorten(given)} is no Snapshot; open_snapshot() answers one")
    return given


def _is_codec(given: object) -> bool:
    return hasattr(given, "dumps") and hasattr(given, "loads")


def _items(page: object) -> Iterable[Any]:
    """What a page's loader answered. A text's letters and a dict's keys can be gone through, and are no items."""
    if isinstance(page, (str, bytes, Mapping)) or not isinstance(page, Iterable):
        raise InvalidRequest.one(
            "loader", f"it answered {names.shorten(page)}, {names.kind(page)}; it must be a list of the page's items"
        )
    return page


def _encode(codec: Codec, address: str, value: Any) -> bytes:
    try:
        return codec.dumps(value)
    except Exception as error:
        raise CodecError(
            f"the value of {names.shorten(address)}, a {type(value).__name__}, cannot be written by the codec"
            f" {codec.name!r}: {error}"
        ) from error
