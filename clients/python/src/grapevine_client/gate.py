"""When to leave a sidecar alone: backoff with jitter, one probe at a time.

A gate is open until a call finds the sidecar unreachable, or several calls in a row get no answer in time. Then it is closed for a
while, and look-ups fail at once instead of waiting for their deadlines. After that while one call is let through as a probe; its
success opens the gate, its failure closes it for twice as long, up to a bound. A probe that never reports (its caller was
cancelled) lapses after a stated time. The while is drawn between half and all of its nominal length, so that the clients of a
sidecar that comes back do not meet at its door.
"""

from __future__ import annotations

import random

from grapevine_client._forks import Locked

# So many calls in a row without an answer in time close the gate.
_SLOW_CALLS_MAX = 3


class Gate(Locked):
    """Times are seconds of a monotonic clock, which the caller brings."""

    def __init__(self, backoff_min_s: float, backoff_max_s: float) -> None:
        super().__init__()
        self._backoff_min_s = backoff_min_s
        self._backoff_max_s = backoff_max_s
        # Failures in a row; 0 means open. Read without the lock: an open gate costs one load.
        self._failures = 0
        self._slow_calls = 0
        self._retry_at = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        return self._failures == 0

    def admit(self, probe_for_s: float, now: float) -> float:
        """0 lets a call through; else how long the gate stays closed. Through a closed one the call goes as its probe."""
        if self._failures == 0:
            return 0.0
        with self._lock:
            left = self._retry_at - now
            if self._failures and left > 0:
                return left
            self._retry_at = now + probe_for_s
            self._probing = True
            return 0.0

    def success(self) -> bool:
        """The sidecar answered. Says whether the gate was closed."""
        if self._failures == 0 and self._slow_calls == 0:
            return False
        with self._lock:
            was_closed = self._failures > 0
            self._failures = self._slow_calls = 0
            self._probing = False
            return was_closed

    def failure(self, now: float) -> bool:
        """The sidecar could not be reached. Says whether the gate was open."""
        with self._lock:
            return self._fail(now)

    def slow(self, now: float) -> bool:
        """The sidecar did not answer in time. Says whether this closed the gate."""
        with self._lock:
            self._slow_calls += 1
            return (self._slow_calls >= _SLOW_CALLS_MAX or self._failures > 0) and self._fail(now)

    def _fail(self, now: float) -> bool:
        # Calls that were under way together fail together: they count once.
        if self._failures > 0 and not self._probing:
            return False
        self._probing = False
        self._retry_at = now + pause_s(self._backoff_min_s, self._backoff_max_s, self._failures)
        self._failures += 1
        return self._failures == 1


def pause_s(least_s: float, most_s: float, failures: int) -> float:
    """A pause after so many earlier ones: doubled each time, bounded, drawn between half and all of it."""
    # Jitter wants no secret.
    nominal_s: float = min(least_s * 2 ** min(failures, 20), most_s)
    return nominal_s * random.uniform(0.5, 1.0)
