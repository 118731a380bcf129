"""What calls answer, as types of this package: the wire's stop here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from grapevine_client._stubs.grapevine.v1 import application_pb2 as app
from grapevine_client._stubs.grapevine.v1 import types_pb2 as types
from grapevine_client.errors import (
    BadAnswer,
    Broken,
    CallError,
    GaveUp,
    NoAnswer,
    Overloaded,
    SessionBehind,
    Unreachable,
)

T = TypeVar("T")


class How(str, Enum):
    """Where a value came from."""

    HIT = "hit"
    """From the cache."""
    STALE = "stale"
    """From the cache, after a soft invalidation replaced it: it is being computed anew."""
    WAITED = "waited"
    """From another caller, of this process or of the cluster, that missed at the same moment."""
    FILLED = "filled"
    """From this caller's loader."""
    BYPASSED = "bypassed"
    """From this caller's loader; nothing was stored."""

    def or_dearer(self, other: How) -> How:
        order = list(How)
        return max(self, other, key=order.index)


class BypassReason(str, Enum):
    """Why a read went to the source and left the cache alone; the names of its counters."""

    POLICY = "policy"
    UNREACHABLE = "unreachable"
    DEADLINE = "deadline"
    OVERLOADED = "overloaded"
    SESSION = "session"
    SNAPSHOT = "snapshot"
    REFUSED = "refused"

    @classmethod
    def of(cls, error: CallError) -> BypassReason:
        if isinstance(error, (Unreachable, Broken)):
            return cls.UNREACHABLE
        if isinstance(error, (NoAnswer, GaveUp)):
            return cls.DEADLINE
        if isinstance(error, Overloaded):
            return cls.OVERLOADED
        if isinstance(error, SessionBehind):
            return cls.SESSION
        return cls.REFUSED


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """A value and where it came from."""

    value: T
    how: How
    stored: bool = False
    """This call stored it."""
    token: int | None = None
    """The token of the classes that the value carries; None when the read bypassed."""
    bypass_reason: BypassReason | None = None


@dataclass(frozen=True)
class PageOutcome(Generic[T]):
    """A slice of a list and where its pages came from."""

    items: list[T]
    how: How
    """The dearest origin of a page."""
    pages: int = 0
    hits: int = 0
    """Pages from the cache."""
    stored: int = 0
    """Pages stored by this call."""
    bypass_reason: BypassReason | None = None


class Strategy(str, Enum):
    """How a class finds what a bump made stale; policy chooses."""

    VERSIONED = "versioned"
    REGISTERED = "registered"
    BUCKETED = "bucketed"
    TTL = "ttl"
    UNKNOWN = "unknown"


class Freshness(str, Enum):
    """What a sidecar can show about its own knowledge."""

    FRESH = "fresh"
    CATCHING_UP = "catching_up"
    UNKNOWN = "unknown"


class Receipt(Enum):
    """Which sidecars must have an event before `invalidate` answers."""

    NONE = types.RECEIPT_LEVEL_NONE
    ONE = types.RECEIPT_LEVEL_ONE
    QUORUM = types.RECEIPT_LEVEL_QUORUM
    ALL = types.RECEIPT_LEVEL_ALL


class HolderState(str, Enum):
    """One sidecar's standing towards an event."""

    HAS = "has"
    FLUSHED = "flushed"
    """On its disk; a local table of one of its clients may serve what the event made stale for a moment."""
    HAS_NOT = "has_not"
    CANNOT_SERVE = "cannot_serve"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Holder:
    """One row of a receipt."""

    node_id: str
    incarnation: bytes
    state: HolderState


@dataclass(frozen=True)
class EventId:
    """An event's identity."""

    incarnation: bytes
    sequence: int


@dataclass(frozen=True)
class InvalidateOutcome:
    """What an invalidation did."""

    event: EventId
    session_token: bytes
    """For `Session.add`: later reads, at any sidecar, then see this write."""
    receipt_satisfied: bool
    """Whether the receipt was reached in time. The event is durable and spreads either way."""
    holders: tuple[Holder, ...]
    addresses_purged: int
    addresses_pending: int
    addresses_dropped: int
    answered_by: str
    """The endpoint that acknowledged it, as configured."""
    repeated: bool
    """An earlier try may have done it as well: there may be a second event with the same effect."""

    @classmethod
    def of(cls, answer: app.InvalidateResponse, endpoint: str, repeated: bool) -> InvalidateOutcome:
        states = {
            types.HOLDER_STATE_HAS: HolderState.HAS,
            types.HOLDER_STATE_FLUSHED: HolderState.FLUSHED,
            types.HOLDER_STATE_HAS_NOT: HolderState.HAS_NOT,
            types.HOLDER_STATE_CANNOT_SERVE: HolderState.CANNOT_SERVE,
        }
        holders = (
            Holder(each.node_id, each.incarnation, states.get(each.state, HolderState.UNKNOWN))
            for each in answer.receipt.holders
        )
        return cls(
            event=event_id(answer.event),
            session_token=answer.session_token,
            receipt_satisfied=answer.receipt.satisfied,
            holders=tuple(holders),
            addresses_purged=answer.addresses_purged,
            addresses_pending=answer.addresses_pending,
            addresses_dropped=answer.addresses_dropped,
            answered_by=endpoint,
            repeated=repeated,
        )


class AbortOutcome(str, Enum):
    """What an abort came to."""

    NOTHING_BUMPED = "nothing_bumped"
    """It came in time."""
    BUMPED = "bumped"
    """The write had ended before, and its classes were bumped."""
    UNKNOWN = "unknown"
    """The sidecar that answered does not know the write: its classes may have been bumped, or will be when the lease ends."""

    @classmethod
    def of(cls, answer: app.AbortWriteResponse, endpoint: str) -> AbortOutcome:
        outcomes = {
            app.ABORT_OUTCOME_NOTHING_BUMPED: cls.NOTHING_BUMPED,
            app.ABORT_OUTCOME_BUMPED: cls.BUMPED,
            app.ABORT_OUTCOME_UNKNOWN: cls.UNKNOWN,
        }
        if answer.outcome not in outcomes:
            raise BadAnswer(endpoint, "answered an abort without its outcome")
        return outcomes[answer.outcome]


@dataclass(frozen=True)
class Target:
    """One address in the cache; the numbers are those of a page, or 0."""

    address: str
    page_index: int
    page_size: int
    skip: int
    take: int


@dataclass(frozen=True)
class Resolution:
    """What to do for one address. The contract (application.proto) says what each field obliges to."""

    targets: tuple[Target, ...]
    token: int
    lease: bytes
    lease_s: float
    strategy: Strategy
    ttl_s: float
    envelope: bool
    commit_required: bool
    bypass: bool
    elect: bool
    fill_forbidden: bool
    read_primary: bool
    freshness: Freshness
    freshness_reason: str

    @property
    def address(self) -> str:
        """The cache address, where there is one."""
        return self.targets[0].address

    @classmethod
    def of(cls, wire: app.Resolution, around: app.ResolveResponse) -> Resolution:
        strategies = {
            types.STRATEGY_VERSIONED: Strategy.VERSIONED,
            types.STRATEGY_REGISTERED: Strategy.REGISTERED,
            types.STRATEGY_BUCKETED: Strategy.BUCKETED,
            types.STRATEGY_TTL: Strategy.TTL,
        }
        fresh = {
            types.FRESHNESS_FRESH: Freshness.FRESH,
            types.FRESHNESS_CATCHING_UP: Freshness.CATCHING_UP,
        }
        return cls(
            targets=tuple(
                Target(each.address, each.page_index, each.page_size, each.skip, each.take) for each in wire.targets
            ),
            token=wire.token,
            lease=wire.lease,
            lease_s=wire.lease_ms / 1_000,
            strategy=strategies.get(wire.strategy, Strategy.UNKNOWN),
            ttl_s=wire.ttl_ms / 1_000,
            envelope=wire.envelope,
            commit_required=wire.commit_required,
            bypass=wire.bypass,
            elect=wire.elect,
            fill_forbidden=wire.fill_forbidden,
            read_primary=wire.read_primary,
            freshness=fresh.get(around.freshness, Freshness.UNKNOWN),
            freshness_reason=around.freshness_reason,
        )


@dataclass(frozen=True)
class Status:
    """A sidecar's state, in short; `counters` has the rest by the names of docs/operations.md."""

    node_id: str
    version: str
    freshness: Freshness
    freshness_reason: str
    counters: dict[str, int]


def event_id(wire: types.EventId) -> EventId:
    return EventId(wire.incarnation, wire.sequence)
