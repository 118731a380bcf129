"""How a client is configured. The defaults suit a sidecar on the same machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from grapevine_client.errors import ConfigError
from grapevine_client.names import BATCH_MAX, shorten


@dataclass(frozen=True)
class Settings:
    """Everything a client can be told beside its endpoints."""

    resolve_deadline_s: float = 0.05
    """How long a look-up may take; then the caller reads the source. Raising it makes reads wait longer for a sidecar that
    hangs; lowering it sends more reads to the source when the machine is busy."""
    commit_deadline_s: float = 1.0
    """How long a fill's commit may take; then its value is not stored."""
    turn_deadline_s: float = 1.0
    """With `fill = "one"`: how much longer than it was asked to wait for a turn the sidecar may take to answer."""
    call_deadline_s: float = 5.0
    """How long every other call may take."""
    invalidate_timeout_s: float = 5.0
    """How long an invalidation waits for its receipt unless told otherwise; 1 ms to 60 s."""
    invalidate_slack_s: float = 1.5
    """How long beyond that an answer is waited for before another sidecar is asked."""
    backoff_min_s: float = 0.01
    backoff_max_s: float = 1.0
    """How long a sidecar that failed is left alone: at first the least, doubling up to the most, each drawn between half and
    all of it."""
    resolve_queue_max: int = 10_000
    """How many look-ups of an `AsyncClient` may wait for the sidecar; callers of more read the source."""
    resolve_batch_max: int = BATCH_MAX
    """How many look-ups may travel in one call, 1 to 1,000."""
    rpcs_in_flight_max: int = 2
    """How many such calls of an `AsyncClient` may be in flight, 1 to 64."""

    report_every_s: float | None = 10.0
    """How often a client that reads tells its sidecar how its reads fared, for the metrics there; None for never. Lowering it shows
    them sooner and costs a call each time."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "report_every_s" and value is None:
                continue
            if field.name.endswith("_s"):
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                _ensure(number, field.name, value, "a number of seconds")
                _ensure(math.isfinite(value) and value > 0, field.name, value, "above zero")
            else:
                _ensure(isinstance(value, int) and not isinstance(value, bool), field.name, value, "a whole number")
        _ensure(self.backoff_max_s >= self.backoff_min_s, "backoff_max_s", self.backoff_max_s, "at least backoff_min_s")
        for name, least, most in (
            ("invalidate_timeout_s", 0.001, 60.0),
            ("resolve_queue_max", 1, 1_000_000),
            ("resolve_batch_max", 1, BATCH_MAX),
            ("rpcs_in_flight_max", 1, 64),
        ):
            value = getattr(self, name)
            _ensure(least <= value <= most, name, value, f"{least:g} to {most:g}")


def _ensure(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{field} is {shorten(value)}; it must be {allowed}")
