"""Trouble that goes on, said once: of a series of failures the log tells the first, and after a success the next series' first.

Trouble that comes and goes would still fill a log, so warnings keep a distance. A series that begins too soon after the last
warning is told when the distance is over, if it lasts so long.
"""

from __future__ import annotations

import logging
import time

from grapevine_client._forks import Locked
from grapevine_client.errors import CallError
from grapevine_client.names import shorten
from grapevine_client.outcome import BypassReason
from grapevine_client.stats import Counters

_log = logging.getLogger("grapevine_client")

# How far apart warnings of one kind of trouble are.
_DISTANCE_S = 60.0


class Series(Locked):
    """Whether a kind of trouble is there. Times are seconds of a monotonic clock."""

    def __init__(self, distance_s: float | None = None) -> None:
        super().__init__()
        self._distance_s = _DISTANCE_S if distance_s is None else distance_s
        self._not_before = 0.0
        # Read without the lock: a success costs one load while all is well.
        self._told = False

    @property
    def is_told(self) -> bool:
        """Whether there is trouble that was told of."""
        return self._told

    def failure(self, now: float) -> bool:
        """Says whether to tell of it."""
        if self.is_told:
            return False
        with self._lock:
            if self._told or now < self._not_before:
                return False
            self._told, self._not_before = True, now + self._distance_s
            return True

    def success(self) -> bool:
        """Says whether there was trouble that was told of."""
        if not self.is_told:
            return False
        with self._lock:
            was_told, self._told = self._told, False
            return was_told

    def failed(self, message: str, *arguments: object) -> None:
        """Logs one failure: as a warning if it is to be told, or else at `DEBUG`."""
        _log.log(logging.WARNING if self.failure(time.monotonic()) else logging.DEBUG, message, *arguments)

    def went_well(self, message: str, *arguments: object) -> None:
        """Logs the end of what was told."""
        if self.success():
            _log.info(message, *arguments)


class Trouble:
    """What goes wrong beside the reads of one client, and fails none of them (G7): counted, and told where no gate tells of it."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._refusals, self._lost_reads, self._lost_stores = Series(), Series(), Series()

    def look_up_failed(self, error: CallError) -> BypassReason:
        """Says what its reads are to be counted as."""
        reason = BypassReason.of(error)
        if reason is BypassReason.REFUSED:
            self._refusals.failed("a look-up was refused, and reads go to the source: %s", error)
        else:
            _log.debug("a look-up failed: %s", error)
        return reason

    def look_up_answered(self) -> None:
        self._refusals.went_well("look-ups are no longer refused")

    def cache_read_failed(self, error: Exception) -> None:
        self._counters.add("cache_get_errors")
        self._lost_reads.failed("the cache cannot be read, and the value counts as missing: %s", _words(error))

    def cache_was_read(self) -> None:
        self._lost_reads.went_well("the cache can be read again")

    def cache_write_failed(self, address: str, size_bytes: int, error: Exception) -> None:
        self._counters.add("cache_set_errors")
        message = "the cache does not store the value at %s (%d bytes), which the next reader computes again: %s"
        arguments = shorten(address), size_bytes, _words(error)
        if self._lost_reads.is_told:
            # A cache that gives nothing takes nothing: that was said.
            _log.debug(message, *arguments)
        else:
            self._lost_stores.failed(message, *arguments)

    def cache_stored(self) -> None:
        self._lost_stores.went_well("the cache stores values again")


def _words(error: Exception) -> str:
    """A timeout of a socket has no text of its own."""
    return str(error) or repr(error)
