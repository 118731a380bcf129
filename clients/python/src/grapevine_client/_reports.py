"""Reports of how reads fared, for the sidecar's metrics.

A read sends one when it ends, if the last one is long enough ago: beside its caller, in a thread or a task that lives for this one
call, and only one at a time. What a report that gets no answer would have told, the next one tells: a number may be counted twice
if only the answer was lost. A report is never the probe of a sidecar that is left alone, and a late answer to it closes no gate:
reads must not fare worse for being reported.

A forked child tells what it did itself. What was done before the fork is its parent's to tell.
"""

from __future__ import annotations

import contextvars
import logging
import math
import time

from grapevine_client._calls import Calls
from grapevine_client._forks import Locked
from grapevine_client._io import Spawned
from grapevine_client._link import Gated
from grapevine_client._stubs.grapevine.v1 import application_pb2 as app

_log = logging.getLogger("grapevine_client")

# How long the last report, of a client that is being closed, may take.
_LAST_S = 0.5
# The contract's: of more the next report tells the rest.
_NUMBER_MAX = 1_000_000_000_000
_NUMBERS = ("hits", "misses", "stale_served", "bypasses")


class Reports(Locked):
    """What was reported, and when the next report is due."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self._calls = calls
        self._every_s = calls.settings.report_every_s
        self._told = dict.fromkeys(_NUMBERS, 0)
        self._under_way: Spawned | None = None
        self._due = self._next_due()

    def _next_due(self) -> float:
        return math.inf if self._every_s is None else time.monotonic() + self._every_s

    def _in_child(self) -> None:
        self._told = self._so_far()
        self._under_way = None
        self._due = self._next_due()

    def _so_far(self) -> dict[str, int]:
        """What a report would tell of all that was ever done."""
        stats = self._calls.counters.snapshot()
        return {name: getattr(stats, name) for name in _NUMBERS}

    def send_if_due(self) -> None:
        """Never waits, and never raises."""
        if time.monotonic() < self._due:
            return
        with self._lock:
            under_way = self._under_way is not None and not self._under_way.done
            if time.monotonic() < self._due or under_way:
                return
            self._due = self._next_due()
            work = self._send()
            try:
                # Not in the caller's context: a report is no part of the trace of the read that happened to send it.
                self._under_way = contextvars.Context().run(self._calls.io.spawn, work, "report")
            except RuntimeError as error:  # no more threads, or no loop any more
                work.close()
                _log.debug("a report of reads was not sent: %s", error)

    async def _send(self) -> None:
        await self._quietly(self._calls.settings.call_deadline_s)

    async def _quietly(self, timeout_s: float) -> None:
        try:
            await self.tell(timeout_s, Gated.ASIDE)
        except Exception as error:  # the next one tells it
            _log.debug("a report of reads failed: %s", error)

    async def tell_now(self) -> None:
        """Lets a report end that the client sends by itself just now: if it fails, this one tells what that one would have told."""
        timeout_s = self._calls.settings.call_deadline_s
        with self._lock:
            self._due, under_way = self._next_due(), self._under_way
        if under_way is not None:
            await under_way.wait(timeout_s)
        await self.tell(timeout_s, Gated.NO)

    async def tell(self, timeout_s: float, gated: Gated) -> None:
        """Tells what is new, if anything is."""
        new = self._take()
        if not any(new.values()):
            return
        link = self._calls.own
        try:
            await link.call(link.app.ReportReads, app.ReportReadsRequest(**new), timeout_s, gated)
        except BaseException:
            with self._lock:
                for name, number in new.items():
                    self._told[name] -= number
            raise

    def _take(self) -> dict[str, int]:
        with self._lock:
            new = {name: min(number - self._told[name], _NUMBER_MAX) for name, number in self._so_far().items()}
            for name, number in new.items():
                self._told[name] += number
            return new

    async def finish(self) -> None:
        """Tells what is left when the client is closed, if the sidecar answers soon."""
        if self._every_s is None:
            return
        ends = time.monotonic() + _LAST_S
        if self._under_way is not None:
            await self._under_way.wait(_LAST_S)
        left_s = ends - time.monotonic()
        if left_s > 0:
            await self._quietly(left_s)
