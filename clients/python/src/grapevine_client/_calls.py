"""The calls of the contract: look-ups, commits and turns at the own sidecar, invalidations and writes at any.

Sidecars are asked one after another: the own one first, then the others in the order configured; one that failed a moment ago
goes to the end of the line, and is still tried before giving up. A sidecar that did nothing and one of which nobody knows what
it did are treated alike, because an invalidation may be repeated: the second event makes stale what the first one made stale.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from grapevine_client import names
from grapevine_client._io import Io, Stream
from grapevine_client._link import Gated, Link
from grapevine_client._stubs.grapevine.v1 import admin_pb2 as admin
from grapevine_client._stubs.grapevine.v1 import application_pb2 as app
from grapevine_client._stubs.grapevine.v1 import types_pb2 as types
from grapevine_client.errors import (
    BadAnswer,
    Broken,
    CallError,
    ConfigError,
    InvalidRequest,
    NoAnswer,
    NoSidecar,
    Overloaded,
    Violation,
)
from grapevine_client.outcome import AbortOutcome, Freshness, InvalidateOutcome, Receipt, Status
from grapevine_client.session import Session
from grapevine_client.settings import Settings
from grapevine_client.stats import Counters

T = TypeVar("T")
_FINISH_DEADLINE_S = 1.0


@dataclass(frozen=True)
class Snapshot:
    """The moment before a database snapshot began, as the own sidecar knows it. The default one is unknown to every sidecar:
    with it reads hit, and nothing that is computed is stored."""

    token: bytes = b""
    ends_at: float = 0.0

    @property
    def remaining_s(self) -> float:
        """How long fills may still be stored; afterwards they are computed and not stored."""
        return max(0.0, self.ends_at - time.monotonic())


@dataclass(frozen=True)
class Turn:
    """An answer to who would fill: `won` it is this caller's, `filled` the value is in the cache, neither: ask again."""

    won: bool
    filled: bool
    fill: bytes
    retry_after_s: float
    open_stream: Stream | None


@dataclass(frozen=True)
class Bump:
    """What an invalidation and a write that is begun have in common, checked."""

    classes: tuple[str, ...]
    match_all: bool
    soft: bool

    @classmethod
    def of(cls, classes: Sequence[str], match_all: bool, soft: bool) -> Bump:
        checked = names.check_classes("classes", classes, names.INVALIDATE_CLASSES_MAX)
        if match_all and not 2 <= len(checked) <= names.MATCH_ALL_CLASSES_MAX:
            raise InvalidRequest.one(
                "classes", f"match_all takes 2 to {names.MATCH_ALL_CLASSES_MAX} classes; there are {len(checked)}"
            )
        return cls(checked, match_all, soft)

    def fields(self) -> dict[str, Any]:
        return {
            "classes": self.classes,
            "match": app.MATCH_ALL if self.match_all else app.MATCH_ANY,
            "purge": app.PURGE_MODE_SOFT if self.soft else app.PURGE_MODE_HARD,
        }


@dataclass(frozen=True)
class Intent:
    """A write that was begun and has not ended."""

    token: bytes
    position: int
    ends_at: float
    lease_s: float
    begun_by: str


class Calls:
    """The calls of one client."""

    def __init__(self, endpoint: str, others: Sequence[str], io: Io, settings: Settings, counters: Counters) -> None:
        if not isinstance(settings, Settings):
            raise ConfigError(f"settings is a {type(settings).__name__}; it must be a Settings")
        if isinstance(others, str):
            raise ConfigError(f"fail_over_to is {names.shorten(others)}; it must be a list of endpoints")
        self.io, self.settings, self.counters = io, settings, counters
        self.links = [Link(each, io, settings) for each in (endpoint, *others)]
        self.own = self.links[0]

    async def close(self) -> None:
        for link in self.links:
            await link.close()

    async def resolve_one(
        self,
        address: str,
        classes: Sequence[str],
        page: tuple[int, int] | None = None,
        session: Session | None = None,
        snapshot: Snapshot | None = None,
    ) -> tuple[app.Resolution, app.ResolveResponse]:
        """Looks one address up; names are checked by the caller."""
        try:
            answer = await self.resolve([item(address, classes, page)], session, snapshot)
        except InvalidRequest as invalid:
            raise _of_one_item(invalid) from None
        return answer.results[0], answer

    async def resolve(
        self, items: Sequence[app.ResolveItem], session: Session | None, snapshot: Snapshot | None
    ) -> app.ResolveResponse:
        request = app.ResolveRequest(items=items)
        deadline_s = self.settings.resolve_deadline_s
        deadline_s += _see(request, session)
        if snapshot is not None:
            request.snapshot = snapshot.token
        self.counters.add("resolve_rpcs")
        self.counters.add("resolve_items", len(items))
        answer: app.ResolveResponse = await self.own.call(self.own.app.Resolve, request, deadline_s, Gated.YES)
        if len(answer.results) != len(items):
            raise BadAnswer(self.own.name, f"answered {len(answer.results)} look-ups of {len(items)}")
        return answer

    async def open_snapshot(self, lease_s: float | None, session: Session | None) -> Snapshot:
        request, deadline_s = app.OpenSnapshotRequest(), self.settings.resolve_deadline_s
        if lease_s is not None:
            request.lease_ms = names.milliseconds(names.check_seconds("lease_s", lease_s, 0.001, 600.0))
        deadline_s += _see(request, session)
        asked = time.monotonic()
        answer = await self.own.call(self.own.app.OpenSnapshot, request, deadline_s, Gated.YES)
        if not answer.snapshot:
            raise BadAnswer(self.own.name, "answered a snapshot of no bytes")
        return Snapshot(answer.snapshot, asked + answer.lease_ms / 1_000)

    async def commit_fill(self, fill: app.Fill) -> app.FillVerdict:
        request = app.CommitFillRequest(fills=[fill])
        answer = await self.own.call(self.own.app.CommitFill, request, self.settings.commit_deadline_s, Gated.YES)
        if len(answer.verdicts) != 1:
            raise BadAnswer(self.own.name, f"answered {len(answer.verdicts)} verdicts on 1 fill")
        verdict: app.FillVerdict = answer.verdicts[0]
        return verdict

    async def acquire_fill(self, address: str, token: int, wait_s: float) -> Turn:
        """Asks for the turn to fill, and waits for it for at most `wait_s`, which may be up to a minute."""
        link, deadline_s = self.own, wait_s + self.settings.turn_deadline_s
        link.admit(deadline_s, Gated.YES)
        request = app.AcquireFillRequest(address=address, token=token, wait_ms=round(wait_s * 1_000))
        stream = link.stream(link.streams.AcquireFill, request)
        try:
            answer = await link.read(stream, deadline_s)
        except BaseException:
            # If the caller is cancelled, its turn, if it has one, is the next one's.
            stream.cancel()
            raise
        if answer is None:
            raise BadAnswer(link.name, "gave no word of whose turn it is")
        won, filled = answer.turn == app.FILL_TURN_WON, answer.turn == app.FILL_TURN_FILLED
        if not won:
            stream.cancel()
        return Turn(won, filled, answer.fill, answer.retry_after_ms / 1_000, stream if won else None)

    async def finish_fill(self, turn: Turn, stored: bool) -> None:
        """Says that a turn is over. Nobody hears it: the sidecar takes the end of the stream for it."""
        try:
            if turn.fill:
                request = app.FinishFillRequest(fill=turn.fill, stored=stored)
                await self.own.call(self.own.app.FinishFill, request, _FINISH_DEADLINE_S, Gated.YES)
        except (CallError, InvalidRequest):
            pass
        finally:
            if turn.open_stream is not None:
                turn.open_stream.cancel()

    async def invalidate(
        self,
        bump: Bump,
        receipt: Receipt,
        timeout_s: float,
        session: Session | None,
        intent: Intent | None = None,
    ) -> InvalidateOutcome:
        """Declares classes changed; with an intent as the commit of that write, at the sidecar that began it first."""
        deadline_s = timeout_s + self.settings.invalidate_slack_s + (session.wait_s if session else 0.0)
        first = intent.position if intent else 0
        attempts: list[CallError] = []

        async def ask(link: Link, left_s: float) -> Any:
            # What is left for the receipt shrinks with what is left of the deadline.
            wait_s = max(0.001, timeout_s - (deadline_s - left_s))
            request = app.InvalidateRequest(
                **bump.fields(), receipt=receipt.value, timeout_ms=names.milliseconds(wait_s)
            )
            _see(request, session)
            if intent is None:
                answer = await link.call(link.app.Invalidate, request, left_s)
            else:
                commit = app.CommitWriteRequest(intent=intent.token, invalidation=request)
                answer = (await link.call(link.app.CommitWrite, commit, left_s)).outcome
            if not answer.HasField("event") or not answer.HasField("receipt"):
                raise BadAnswer(link.name, "answered an invalidation without its event or its receipt")
            return answer

        for position, link in self._line(first, deadline_s):
            try:
                answer = await _twice_if_broken(link, ask, deadline_s, attempts)
            except InvalidRequest as invalid:
                self._nothing_in_doubt(attempts, invalid)
                raise
            except CallError as error:
                attempts.append(error)
                if error.may_differ_elsewhere:
                    continue
                if len(attempts) == 1:
                    raise
                break
            if position != first:
                self.counters.add("invalidate_failovers")
            repeated = any(each.may_have_had_effect for each in attempts)
            return InvalidateOutcome.of(answer, link.name, repeated)
        self.counters.add("invalidate_failures")
        raise NoSidecar("no sidecar acknowledged the invalidation", attempts)

    def _nothing_in_doubt(self, attempts: list[CallError], invalid: InvalidRequest) -> None:
        """A refusal says that this try did nothing, and nothing of those before."""
        if any(each.may_have_had_effect for each in attempts):
            self.counters.add("invalidate_failures")
            raise NoSidecar("no sidecar acknowledged the invalidation", attempts) from invalid

    async def begin_write(self, bump: Bump, lease_s: float | None, timeout_s: float, session: Session | None) -> Intent:
        deadline_s = timeout_s + self.settings.invalidate_slack_s + (session.wait_s if session else 0.0)
        request = app.BeginWriteRequest(
            **bump.fields(),
            lease_ms=0 if lease_s is None else names.milliseconds(lease_s),
            timeout_ms=names.milliseconds(timeout_s),
        )
        metadata = session.metadata() if session else ()

        async def ask(link: Link, left_s: float) -> Intent:
            # Each sidecar counts the lease from when it is asked; so does this one, and no later.
            began = time.monotonic()
            answer = await link.call(link.app.BeginWrite, request, left_s, metadata=metadata)
            if not answer.intent or not answer.lease_ms:
                raise BadAnswer(link.name, "began a write without its intent or its lease")
            granted_s = answer.lease_ms / 1_000
            return Intent(answer.intent, self.links.index(link), began + granted_s, granted_s, link.name)

        return await self._first_answer(0, ask, deadline_s, "no sidecar began the write")

    async def abort_write(self, intent: bytes, first: int = 0) -> AbortOutcome:
        deadline_s = self.settings.invalidate_timeout_s + self.settings.invalidate_slack_s
        request = app.AbortWriteRequest(intent=intent)

        async def ask(link: Link, left_s: float) -> AbortOutcome:
            return AbortOutcome.of(await link.call(link.app.AbortWrite, request, left_s), link.name)

        nobody = "nobody heard of the abort; the classes are bumped when the lease ends"
        return await self._first_answer(first, ask, deadline_s, nobody)

    async def _first_answer(
        self, first: int, ask: Callable[[Link, float], Awaitable[T]], deadline_s: float, nobody: str
    ) -> T:
        attempts: list[CallError] = []
        for _, link in self._line(first, deadline_s):
            try:
                return await _twice_if_broken(link, ask, deadline_s, attempts)
            except CallError as error:
                if not error.may_differ_elsewhere:
                    raise
                attempts.append(error)
        raise NoSidecar(nobody, attempts)

    async def status(self) -> Status:
        link = self.own
        answer = await link.call(link.admin.Status, admin.StatusRequest(), self.settings.call_deadline_s)
        fresh = {
            types.FRESHNESS_FRESH: Freshness.FRESH,
            types.FRESHNESS_CATCHING_UP: Freshness.CATCHING_UP,
        }
        return Status(
            answer.node_id,
            answer.version,
            fresh.get(answer.freshness, Freshness.UNKNOWN),
            answer.freshness_reason,
            dict(answer.counters),
        )

    def _line(self, first: int, probe_for_s: float) -> Iterator[tuple[int, Link]]:
        """Whom to ask next: those that are being left alone at the end. A gate is asked when its link's turn comes, not before:
        to be admitted may mean to be the probe."""
        left_alone = []
        links = sorted(enumerate(self.links), key=lambda each: each[0] != first)
        for position, link in links:
            if link.gate.admit(probe_for_s, time.monotonic()):
                left_alone.append((position, link))
            else:
                yield position, link
        yield from left_alone


def _see(request: Any, session: Session | None) -> float:
    """Has the answer wait for what the session has seen; says how much longer that may take."""
    if not session:
        return 0.0
    request.session.tokens.extend(session.tokens)
    request.session.wait_ms = session.wait_ms
    return session.wait_s


async def _twice_if_broken(
    link: Link, ask: Callable[[Link, float], Awaitable[T]], deadline_s: float, attempts: list[CallError]
) -> T:
    """A connection that broke while it was idle says nothing about the sidecar: the second try makes a new one."""
    ends = time.monotonic() + deadline_s
    try:
        return await ask(link, deadline_s)
    except Broken as error:
        left_s = ends - time.monotonic()
        if left_s <= 0:
            raise
        attempts.append(error)
        return await ask(link, left_s)


def item(address: str, classes: Sequence[str], page: tuple[int, int] | None = None) -> app.ResolveItem:
    if page is None:
        return app.ResolveItem(address=address, classes=classes)
    return app.ResolveItem(address=address, classes=classes, page=app.Page(offset=page[0], limit=page[1]))


def _of_one_item(invalid: InvalidRequest) -> InvalidRequest:
    """The same, without the position in a batch that its caller knows nothing of."""
    violations = [Violation(each.field.removeprefix("items[0]."), each.description) for each in invalid.violations]
    return InvalidRequest(violations, invalid.message.replace("items[0].", ""))


class Batcher:
    """Look-ups of many tasks in few calls: what comes while calls are under way travels together in the next one.

    A caller whom nobody is ahead of sends its own at once, so that a lone one pays nothing for this.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._in_flight = 0
        self._waiting: list[tuple[app.ResolveItem, asyncio.Future[tuple[app.Resolution, app.ResolveResponse]]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def resolve_one(self, address: str, classes: Sequence[str]) -> tuple[app.Resolution, app.ResolveResponse]:
        settings = self._calls.settings
        if self._in_flight < settings.rpcs_in_flight_max and not self._waiting:
            self._in_flight += 1
            try:
                return await self._calls.resolve_one(address, classes)
            finally:
                self._done()
        if len(self._waiting) >= settings.resolve_queue_max:
            raise Overloaded(
                self._calls.own.name, f"has {settings.resolve_queue_max} look-ups waiting already, which is the limit"
            )
        future: asyncio.Future[tuple[app.Resolution, app.ResolveResponse]]
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((item(address, classes), future))
        try:
            return await asyncio.wait_for(future, settings.resolve_deadline_s)
        except asyncio.TimeoutError:
            raise NoAnswer(
                self._calls.own.name, f"did not answer within {settings.resolve_deadline_s * 1_000:.0f} ms"
            ) from None

    def _done(self) -> None:
        self._in_flight -= 1
        settings = self._calls.settings
        self._waiting = [each for each in self._waiting if not each[1].done()]
        while self._waiting and self._in_flight < settings.rpcs_in_flight_max:
            most = settings.resolve_batch_max
            batch, self._waiting = self._waiting[:most], self._waiting[most:]
            self._in_flight += 1
            task = asyncio.get_running_loop().create_task(self._send(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(
        self, batch: list[tuple[app.ResolveItem, asyncio.Future[tuple[app.Resolution, app.ResolveResponse]]]]
    ) -> None:
        try:
            answer = await self._calls.resolve([each for each, _ in batch], None, None)
        except InvalidRequest as invalid:
            if len(batch) == 1:
                _settle(batch[0][1], _of_one_item(invalid))
                return
            # One of them is what no sidecar takes, for its policy say: the others shall not fail for it.
            for lone in batch:
                self._in_flight += 1
                await self._send([lone])
        except BaseException as error:  # nobody else would tell those who wait
            for _, future in batch:
                _settle(
                    future, error if isinstance(error, Exception) else NoAnswer(self._calls.own.name, "was not asked")
                )
            if not isinstance(error, Exception):
                raise
        else:
            for (_, future), result in zip(batch, answer.results, strict=True):
                if not future.done():
                    future.set_result((result, answer))
        finally:
            self._done()


def _settle(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
