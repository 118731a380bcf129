"""The fence (G3): whether a value from the cache may be served, and whether a computed one may be stored.

The order is the guarantee. The look-up comes first: its answer carries the stamp (in the lease) and the token, both taken before
anything is read from the source. A value from the cache is served only if it carries the look-up's token, in its address or in its
envelope, and the full address that was asked for. A value computed after the look-up is stored under the look-up's token: if a bump
overtook it, no later look-up asks for that token again, so it does not matter how late the store lands. Where policy wants a
directory entry, and where the loader named dependencies, `CommitFill` comes before the store, and a fill that was overtaken is
refused there. The caller gets its value in any case: its read began before the bump.

Trouble is not the reader's: without a usable look-up the loader runs and nothing is stored (a *bypass*); a cache that fails is a
miss, and a store that fails is counted.
"""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from grapevine_client import names
from grapevine_client._calls import Batcher, Calls, Snapshot, Turn
from grapevine_client._flights import Flights, Seat
from grapevine_client._stubs.grapevine.v1 import application_pb2 as app
from grapevine_client._stubs.grapevine.v1 import types_pb2 as types
from grapevine_client._trouble import Series, Trouble
from grapevine_client.caches import AsyncCache
from grapevine_client.errors import CallError, FormatError, InvalidRequest, NoAnswer
from grapevine_client.formats import MAGIC, Dependencies, Envelope, decode_page, encode_page, page_address
from grapevine_client.outcome import BypassReason, How
from grapevine_client.session import Session

_log = logging.getLogger("grapevine_client")

# So often a caller goes round again when another one's fill was not good enough for it; then it fills for itself.
_ROUNDS_MAX = 3
# How long a caller waits for others in the cluster to fill: longer than most sources take, and than a turn whose caller died
# without a trace is open.
_TURN_WAIT_S_MAX = 60.0
# How long the sidecar is asked to wait at a time. One that was stopped says nothing when that is over, and is found out.
_TURN_ASK_S_MAX = 1.0
# So often a caller is told that the value is there, does not find it, and asks again; then it fills for itself.
_DISAPPOINTED_MAX = 2

Loader = Callable[[], Awaitable[bytes]]
PageLoader = Callable[[int, int], Awaitable[list[bytes]]]


class Fill:
    """A fill under way: `depends_on` and `read_primary` of this package speak of it."""

    def __init__(self, read_primary: bool = False) -> None:
        self.read_primary = read_primary
        self.found: list[str] = []

    def depends_on(self, class_path: str) -> None:
        # One more than allowed is enough to see that there are too many.
        if len(self.found) <= names.CLASSES_MAX and class_path not in self.found:
            self.found.append(class_path)


_current_fill: contextvars.ContextVar[Fill | None] = contextvars.ContextVar("grapevine_fill", default=None)
_lost_dependencies = Series()


def depends_on(class_path: str) -> None:
    """Says, inside a loader, that the value being computed depends on this class too: a bump of it makes the value stale.

    At any time before the loader returns, since what counts is what was bumped after the look-up. With the classes of the look-up
    there may be 16; a value with more, or with a malformed one, is given to its caller and not stored. Under a `ttl` policy it has
    no effect.

    It knows the loader by a context variable. Outside of a loader it has no effect, which the log tells at most once a minute. So
    it is in a thread that the loader starts or takes from an executor, unless that is given the loader's context:
    `asyncio.to_thread` does so, and `contextvars.copy_context().run` by hand.
    """
    fill = _current_fill.get()
    if fill is not None:
        fill.depends_on(class_path)
        return
    _lost_dependencies.failed(
        "depends_on(%r) has no effect: no loader runs in this context; one that hands work to a thread must hand its context, too",
        class_path,
    )
    # Nothing is mended by another call: each that keeps its distance is told.
    _lost_dependencies.success()


def read_primary() -> bool:
    """Says, inside a loader, whether to read the primary: a replica may lag behind the last invalidation of the value's classes
    (policy `source_lag` with `on_source_lag = "primary"`), and what it shows would stay in the cache until its TTL."""
    fill = _current_fill.get()
    return fill is not None and fill.read_primary


@dataclass(frozen=True)
class _Key:
    """What callers must agree on to share a fill."""

    token: int
    target: str
    # The application's address, with its page suffix: several may share a target.
    address: str
    classes: tuple[str, ...]
    # A whole value may bear the name of a page; what it holds need not be one.
    paged: bool


# A value with dependencies that nobody vouches for.
_UNSETTLED = Dependencies((), 0)


@dataclass(frozen=True)
class _Value:
    data: bytes
    depends: Dependencies | None = None
    # The end of its TTL; None for what a cache has just given, which keeps TTLs itself.
    good_until: float | None = None


@dataclass(frozen=True)
class Unit:
    """One value to get: a whole one, or one page."""

    key: _Key
    # The application's address without a page suffix.
    base: str
    resolution: app.Resolution
    ttl_ms: int
    # Before anything is read from the source.
    looked_up: float

    @classmethod
    def of(
        cls,
        base: str,
        address: str,
        classes: tuple[str, ...],
        resolution: app.Resolution,
        target: app.Target,
        ttl_ms: int | None,
    ) -> Unit:
        key = _Key(resolution.token, target.address, address, classes, target.page_size > 0)
        policy_ms = resolution.ttl_ms
        return cls(key, base, resolution, policy_ms if ttl_ms is None else min(ttl_ms, policy_ms), time.monotonic())

    def within(self, ttl_ms: int | None) -> Unit:
        """The same for a value that lives no longer than this."""
        return self if ttl_ms is None else replace(self, ttl_ms=min(self.ttl_ms, ttl_ms))

    def can_hold(self, data: bytes) -> bool:
        """Whether the value is a page where a page was asked for."""
        return not self.key.paged or decode_page(data) is not None


@dataclass(frozen=True)
class _Failed:
    error: Exception


@dataclass(frozen=True)
class Got:
    """What getting one value came to: a value, another round, or a bypass."""

    data: bytes = b""
    how: How = How.HIT
    stored: bool = False
    token: int | None = None
    again: bool = False
    bypass: BypassReason | None = None


@dataclass
class Past:
    """What a read is to have seen."""

    session: Session | None = None
    snapshot: Snapshot | None = None


@dataclass
class _Right:
    """By what right a caller fills: with its turn, without one (nobody is elected, or nobody can tell who is), or only for those
    who wait, without storing anything."""

    turn: Turn | None = None
    may_store: bool = True


class _Refused:
    """A fill may not be stored."""


_REFUSED = _Refused()


@dataclass
class Fence:
    """Cached reads of one client."""

    calls: Calls
    cache: AsyncCache
    batcher: Batcher | None = None
    flights: Flights[_Value | _Failed] = field(init=False)
    trouble: Trouble = field(init=False)

    def __post_init__(self) -> None:
        self.flights = Flights(self.calls.io)
        self.trouble = Trouble(self.calls.counters)

    def _count(self, name: str) -> None:
        self.calls.counters.add(name)

    async def get(
        self,
        address: str,
        classes: tuple[str, ...],
        ttl_ms: int | None,
        loader: Loader,
        past: Past,
        stale_too: bool = False,
        fresh: bool = False,
    ) -> Got:
        """The value at an address, whose names are checked already. With `fresh` the cache is not believed."""
        rounds = 0
        while True:
            resolution = await self.look_up(address, classes, None, past)
            if isinstance(resolution, BypassReason):
                return await self._bypass(resolution, loader)
            if len(resolution.targets) != 1:
                return await self._bypass(BypassReason.REFUSED, loader)
            unit = Unit.of(address, address, classes, resolution, resolution.targets[0], ttl_ms)
            before = self.flights.finished(unit.key)
            found = None if fresh else await self._read_cache(unit.key.target)
            if stale_too and resolution.stale and not fresh:
                stale = await self._stale(unit, found, past)
                if stale is not None:
                    self._refresh(unit, ttl_ms, loader, past)
                    return stale
            rounds += 1
            got = await self._settle(unit, found, before, rounds > _ROUNDS_MAX, loader, past)
            if got.bypass is not None:
                return await self._bypass(got.bypass, loader)
            if not got.again:
                return got

    async def get_page(
        self,
        address: str,
        classes: tuple[str, ...],
        page: tuple[int, int],
        ttl_ms: int | None,
        loader: PageLoader,
        past: Past,
    ) -> tuple[list[bytes], list[Got]]:
        """A slice of a list, from whole pages; each one missing is filled by itself, in order. A short page ends the list."""
        rounds = 0
        while True:
            resolution = await self.look_up(address, classes, page, past)
            if isinstance(resolution, BypassReason):
                return await self._bypass_page(resolution, page, loader)
            if not resolution.targets or any(target.page_size == 0 for target in resolution.targets):
                return await self._bypass_page(BypassReason.REFUSED, page, loader)
            rounds += 1
            slice_, gots = await self._pages(address, classes, resolution, ttl_ms, rounds > _ROUNDS_MAX, loader, past)
            last = gots[-1]
            if last.bypass is not None:
                return await self._bypass_page(last.bypass, page, loader)
            # All pages of one answer carry one token: the whole slice is looked up again rather than patched.
            if not last.again:
                return slice_, gots

    async def _pages(
        self,
        address: str,
        classes: tuple[str, ...],
        resolution: app.Resolution,
        ttl_ms: int | None,
        alone: bool,
        loader: PageLoader,
        past: Past,
    ) -> tuple[list[bytes], list[Got]]:
        slice_: list[bytes] = []
        gots: list[Got] = []
        for target in resolution.targets:
            name = page_address(address, target.page_size, target.page_index)
            unit = Unit.of(address, name, classes, resolution, target, ttl_ms)
            before = self.flights.finished(unit.key)
            found = await self._read_cache(unit.key.target)

            async def load(index: int = target.page_index, size: int = target.page_size) -> bytes:
                return encode_page((await loader(index * size, size))[:size])

            got = await self._settle(unit, found, before, alone, load, past)
            gots.append(got)
            if got.again or got.bypass is not None:
                break
            items = decode_page(got.data)
            if items is None:
                raise RuntimeError("invariant: the fence lets no page pass that is none")
            slice_ += items[target.skip : target.skip + target.take]
            if len(items) < target.page_size:
                break
        return slice_, gots

    async def peek_many(self, units: Sequence[Unit], past: Past) -> list[bytes | None]:
        """What the cache has of several values, as far as it may be served."""
        if not units:
            return []
        try:
            held = await self.cache.get_many([unit.key.target for unit in units])
        except Exception as error:  # whatever a cache's library raises is a miss
            self.trouble.cache_read_failed(error)
            held = {}
        else:
            self.trouble.cache_was_read()
        found = []
        for unit in units:
            value = await self._judge(unit, held.get(unit.key.target), past)
            served = isinstance(value, _Value)
            self._count("hits" if served else "misses")
            found.append(value.data if isinstance(value, _Value) else None)
        return found

    async def keep(self, unit: Unit, data: bytes, only_if_absent: bool = False) -> bool:
        """Stores a value that was computed after the look-up, outside of a loader, if that is allowed."""
        if unit.resolution.fill_forbidden:
            self._count("fills_of_lagging_source")
            return False
        depends = await self._commit(unit, (), None)
        if isinstance(depends, _Refused):
            return False
        return await self._store(unit, _Value(data, depends), only_if_absent)

    async def look_up(
        self, address: str, classes: tuple[str, ...], page: tuple[int, int] | None, past: Past
    ) -> app.Resolution | BypassReason:
        try:
            if self.batcher is not None and page is None and not past.session and past.snapshot is None:
                resolution, _ = await self.batcher.resolve_one(address, classes)
            else:
                resolution, _ = await self.calls.resolve_one(address, classes, page, past.session, past.snapshot)
        except CallError as error:
            return self.trouble.look_up_failed(error)
        self.trouble.look_up_answered()
        return BypassReason.POLICY if resolution.bypass else resolution

    async def _bypass(self, reason: BypassReason, loader: Loader) -> Got:
        self._count(f"bypass_{reason.value}")
        return Got(await _load(loader, Fill()), How.BYPASSED, bypass=reason)

    async def _bypass_page(
        self, reason: BypassReason, page: tuple[int, int], loader: PageLoader
    ) -> tuple[list[bytes], list[Got]]:
        self._count(f"bypass_{reason.value}")
        held = _current_fill.set(Fill())
        try:
            items = await loader(*page)
        finally:
            _current_fill.reset(held)
        return items[: page[1]], [Got(how=How.BYPASSED, bypass=reason)]

    async def _settle(
        self, unit: Unit, found: bytes | None, before: int, alone: bool, loader: Loader, past: Past
    ) -> Got:
        """Serves `found` if it can be served; otherwise waits for who computes the value, or computes it."""
        value = await self._judge(unit, found, past)
        if isinstance(value, BypassReason):
            return Got(bypass=value)
        if value is not None:
            return self._hit(unit, value)
        self._count("misses")
        right = _Right()
        if unit.resolution.fill_forbidden:
            if past.snapshot is not None:
                # What this caller computes is for nobody else: neither for the cache nor for who waits.
                return Got(bypass=BypassReason.SNAPSHOT)
            self._count("fills_of_lagging_source")
            right = _Right(may_store=False)
        if alone:
            return await self._fill(unit, None, right, loader)
        seat = self.flights.sit(unit.key)
        try:
            result = await seat.turn()
            if result is not None:
                return await self._follow(unit, result, past)
            if seat.own_flight:
                # Its own loader asks for what it computes: waiting for it would last for ever.
                return await self._fill(unit, None, right, loader)
            if seat.after_another:
                self._count("takeovers")
            if seat.others_finished_since(before):
                value = await self._judge(unit, await self._read_cache(unit.key.target), past)
                if isinstance(value, BypassReason):
                    return Got(bypass=value)
                if value is not None:
                    seat.publish(value)
                    return self._hit(unit, value)
            if right.may_store and unit.resolution.elect:
                return await self._elected(unit, seat, loader, past)
            return await self._fill(unit, seat, right, loader)
        finally:
            seat.leave()

    def _hit(self, unit: Unit, value: _Value) -> Got:
        self._count("hits")
        return Got(value.data, How.HIT, token=unit.key.token)

    async def _judge(self, unit: Unit, found: bytes | None, past: Past) -> _Value | BypassReason | None:
        """What of `found` may be served; None is a miss."""
        if found is None:
            return None
        value = _inspect(unit, unit.key.token, found)
        if value is None:
            self._count("envelope_mismatch")
            return None
        if value.depends is None:
            return value
        holds = await self._still_hold(unit, value.depends, past)
        if isinstance(holds, BypassReason):
            return holds
        if not holds:
            self._count("envelope_mismatch")
            return None
        return value

    async def _still_hold(self, unit: Unit, depends: Dependencies, past: Past) -> bool | BypassReason:
        """Whether nothing that the value depends on has changed."""
        classes = (*unit.key.classes, *depends.classes)
        try:
            names.check_classes("classes", classes, names.CLASSES_MAX)
            resolution = await self.look_up(unit.base, classes, None, past)
        except InvalidRequest:
            # The names came from the cache: what is malformed there is not this caller's mistake.
            return False
        if isinstance(resolution, BypassReason):
            return resolution
        return resolution.token == depends.token

    async def _follow(self, unit: Unit, result: _Value | _Failed, past: Past) -> Got:
        """Takes another caller's result, if it is good enough for this one."""
        if isinstance(result, _Failed):
            self._count("single_flight_waits")
            raise result.error
        too_old = result.good_until is not None and time.monotonic() >= result.good_until
        if too_old or result.depends is _UNSETTLED or not unit.can_hold(result.data):
            return Got(again=True)
        if result.depends is not None:
            holds = await self._still_hold(unit, result.depends, past)
            if isinstance(holds, BypassReason):
                return Got(bypass=holds)
            if not holds:
                return Got(again=True)
        self._count("single_flight_waits")
        return Got(result.data, How.WAITED, token=unit.key.token)

    async def _fill(self, unit: Unit, seat: Seat[_Value | _Failed] | None, right: _Right, loader: Loader) -> Got:
        """Computes the value, tells the others, and stores it if that is allowed."""
        self._count("fills")
        fill, stored = Fill(unit.resolution.read_primary), False
        try:
            try:
                data = await _load(loader, fill)
            except Exception as error:
                self._count("fill_errors")
                if seat is not None:
                    seat.publish(_Failed(error))
                raise
            # Bumps do not concern a `ttl` value: it is served until its TTL, whatever it depends on.
            lapsing = unit.resolution.strategy == types.STRATEGY_TTL
            found = [] if lapsing else [each for each in fill.found if each not in unit.key.classes]
            depends = await self._commit(unit, found, right.turn) if right.may_store else _REFUSED
            refused = isinstance(depends, _Refused)
            kept = depends if not isinstance(depends, _Refused) else (_UNSETTLED if found else None)
            value = _Value(data, kept, unit.looked_up + unit.ttl_ms / 1_000)
            if seat is not None:
                seat.publish(value)
            stored = not refused and await self._store(unit, value)
        finally:
            if right.turn is not None:
                await self.calls.finish_fill(right.turn, stored)
        return Got(data, How.FILLED, stored, unit.key.token)

    async def _commit(self, unit: Unit, found: Sequence[str], turn: Turn | None) -> Dependencies | _Refused | None:
        """Asks the sidecar, where it must be asked, whether the value may be stored."""
        if not found and not unit.resolution.commit_required:
            return None
        try:
            names.check_classes("dependencies", [*unit.key.classes, *found], names.CLASSES_MAX)
        except InvalidRequest as invalid:
            self._count("bad_dependencies")
            _log.warning("the dependencies of %r cannot be kept, and its value is not stored: %s", unit.base, invalid)
            return _REFUSED
        fill = app.Fill(
            address=unit.key.target,
            classes=unit.key.classes,
            added_classes=found,
            lease=unit.resolution.lease,
            ttl_ms=unit.ttl_ms,
            fill=b"" if turn is None else turn.fill,
        )
        try:
            verdict = await self.calls.commit_fill(fill)
        except (CallError, InvalidRequest) as error:
            self._count("commit_failures")
            _log.debug("a fill's commit got no answer: %s", error)
            return _REFUSED
        if not verdict.accepted:
            self._count("condemned")
            return _REFUSED
        return Dependencies(tuple(found), verdict.token) if found else None

    async def _store(self, unit: Unit, value: _Value, only_if_absent: bool = False) -> bool:
        """Says whether the value is in the cache now. It lives until its TTL after the look-up, not after the store: how old a
        value under `ttl` can be must not depend on how long it took to compute."""
        ttl_ms = unit.ttl_ms - int((time.monotonic() - unit.looked_up) * 1_000) - 1
        if ttl_ms < max(1, self.cache.ttl_grain_ms):
            # A cache that counts in seconds would round what is left of one up.
            self._count("too_short_to_store")
            return False
        data = value.data
        try:
            wrapped = unit.resolution.envelope or value.depends is not None or value.data[:1] == bytes([MAGIC])
            if wrapped:
                data = Envelope(unit.key.token, unit.key.address, value.data, value.depends).encode()
            if not only_if_absent:
                await self.cache.set(unit.key.target, data, ttl_ms)
            elif not await self._add(unit, data, ttl_ms):
                return False
        except FormatError as error:
            self._count("cache_set_errors")
            _log.warning("a value at %r cannot be wrapped: %s", unit.key.address, error)
            return False
        except Exception as error:  # whatever a cache's library raises: the reader has its value
            self.trouble.cache_write_failed(unit.key.address, len(data), error)
            return False
        self.trouble.cache_stored()
        self._count("stored")
        return True

    async def _add(self, unit: Unit, data: bytes, ttl_ms: int) -> bool:
        """At an address that bumps do not change, what is no longer served is in the way of the cache's own `add`."""
        if await self.cache.add(unit.key.target, data, ttl_ms):
            return True
        if not unit.resolution.envelope:
            return False
        held = await self.cache.get(unit.key.target)
        if held is not None and _inspect(unit, unit.key.token, held) is not None:
            return False
        await self.cache.set(unit.key.target, data, ttl_ms)
        return True

    async def _elected(self, unit: Unit, seat: Seat[_Value | _Failed], loader: Loader, past: Past) -> Got:
        """Asks for the turn to fill, and fills if it has it, or if nobody can tell whose it is. No safety rests on it."""
        until = time.monotonic() + _TURN_WAIT_S_MAX
        disappointed = 0
        while True:
            asked = time.monotonic()
            left_s = until - asked
            wait_s = max(0.0, min(left_s, _TURN_ASK_S_MAX))
            try:
                turn = await self.calls.acquire_fill(unit.key.target, unit.key.token, wait_s)
            except (CallError, InvalidRequest) as error:
                self._count("turn_failures")
                _log.debug("nobody tells whose turn it is to fill %r: %s", unit.key.target, error)
                # One that says nothing would not answer a commit either, and they have waited long enough.
                return await self._fill(unit, seat, _Right(may_store=not isinstance(error, NoAnswer)), loader)
            if not turn.won and not turn.filled:
                waited = time.monotonic() - asked >= wait_s
                if wait_s < left_s and waited:
                    continue
                if turn.retry_after_s < left_s:
                    await self.calls.io.sleep(turn.retry_after_s)
                    continue
                return await self._fill(unit, seat, _Right(), loader)
            try:
                # Also the winner looks: somebody may have stored it after this caller had looked.
                value = await self._judge(unit, await self._read_cache(unit.key.target), past)
            except BaseException:
                if turn.open_stream is not None:
                    turn.open_stream.cancel()
                raise
            if isinstance(value, _Value):
                seat.publish(value)
                if turn.won:
                    await self.calls.finish_fill(turn, True)
                self._count("turn_waits")
                return Got(value.data, How.WAITED, token=unit.key.token)
            if isinstance(value, BypassReason):
                if turn.won:
                    await self.calls.finish_fill(turn, False)
                return Got(bypass=value)
            if turn.won:
                return await self._fill(unit, seat, _Right(turn), loader)
            disappointed += 1
            if disappointed > _DISAPPOINTED_MAX:
                return await self._fill(unit, seat, _Right(), loader)

    async def _stale(self, unit: Unit, found: bytes | None, past: Past) -> Got | None:
        """A value that soft bumps alone have replaced, if the cache has one and nothing that is current. One with dependencies is
        none: nobody says of those whether they changed."""
        if found is not None and await self._judge(unit, found, past) is not None:
            return None
        for stale in unit.resolution.stale:
            data = await self._read_cache(stale.address)
            value = None if data is None else _inspect(unit, stale.token, data)
            if value is not None and value.depends is None:
                self._count("stale_served")
                return Got(value.data, How.STALE, token=stale.token)
        return None

    def _refresh(self, unit: Unit, ttl_ms: int | None, loader: Loader, past: Past) -> None:
        """Computes the new value in the background, unless that is under way already or there are too many."""
        key, refreshing = unit.key, self.flights.refreshing
        if len(refreshing) >= self.calls.io.revalidations_max or key in refreshing:
            return
        refreshing.add(key)
        self._count("revalidations")

        async def work() -> None:
            try:
                await self.get(unit.base, key.classes, ttl_ms, loader, past)
            except Exception as error:  # the next reader finds it out for itself
                _log.debug("a stale value was not computed anew: %s", error)
            finally:
                refreshing.discard(key)

        self.calls.io.spawn(work(), "refresh")

    async def _read_cache(self, target: str) -> bytes | None:
        try:
            found = await self.cache.get(target)
        except Exception as error:  # whatever a cache's library raises is a miss
            self.trouble.cache_read_failed(error)
            return None
        self.trouble.cache_was_read()
        return found


async def _load(loader: Loader, fill: Fill) -> bytes:
    held = _current_fill.set(fill)
    try:
        return await loader()
    finally:
        _current_fill.reset(held)


def _inspect(unit: Unit, token: int, stored: bytes) -> _Value | None:
    """What was stored, if it carries this token and is what the look-up asks for."""
    if not unit.resolution.envelope and stored[:1] != bytes([MAGIC]):
        value = _Value(stored)
    else:
        envelope = Envelope.parse(stored)
        if envelope is None or envelope.token != token or envelope.address != unit.key.address:
            return None
        value = _Value(envelope.value, envelope.dependencies)
    return value if unit.can_hold(value.data) else None
