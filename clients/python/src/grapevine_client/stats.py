"""Counters of a client. They only grow; reading them takes one consistent copy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from grapevine_client._forks import Locked


@dataclass(frozen=True)
class Stats:
    """What a client has done since it was built."""

    resolve_items: int = 0
    """Look-ups sent, alone or in batches."""
    resolve_rpcs: int = 0
    """Calls that carried them."""
    hits: int = 0
    """Values served from the cache."""
    misses: int = 0
    """Values that the cache did not have, or that could not be served."""
    fills: int = 0
    """Loaders run to fill a miss, those that failed included."""
    fill_errors: int = 0
    """Loaders that raised."""
    stored: int = 0
    """Values stored."""
    stale_served: int = 0
    """Values served although a soft invalidation had replaced them."""
    revalidations: int = 0
    """Of those, how many had this client compute the new value in the background."""
    single_flight_waits: int = 0
    """Values served from another caller's fill."""
    turn_waits: int = 0
    """Values served from the fill of another process, for which this one had waited."""
    turn_failures: int = 0
    """Requests for a turn to fill that got no answer: filled without one."""
    takeovers: int = 0
    """Fills taken over from a caller that was cancelled."""
    condemned: int = 0
    """Fills that a bump overtook, or whose lease had ended: given to the caller, not stored."""
    commit_failures: int = 0
    """Fills whose commit got no answer: given to the caller, not stored."""
    bad_dependencies: int = 0
    """Fills with a malformed dependency or too many: given to the caller, not stored."""
    too_short_to_store: int = 0
    """Fills after which less was left of the TTL than the cache can count: given to the caller, not stored."""
    envelope_mismatch: int = 0
    """Stored values that were not what was asked for: another token, another address, or no envelope."""
    undecodable: int = 0
    """Stored values that the codec could not read: computed anew."""
    cache_get_errors: int = 0
    """Cache reads that failed; counted as misses too."""
    cache_set_errors: int = 0
    """Cache writes that failed."""
    fills_of_lagging_source: int = 0
    """Misses whose value is not stored, because what it is computed from may lag behind the last invalidation."""
    bypass_policy: int = 0
    """Reads that went to the source because policy said so: the sidecar is not sure that it is fresh."""
    bypass_unreachable: int = 0
    """... because the sidecar could not be reached or broke off."""
    bypass_deadline: int = 0
    """... because the sidecar did not answer in time."""
    bypass_overloaded: int = 0
    """... because too many look-ups waited already, here or there."""
    bypass_session: int = 0
    """... because the sidecar had not applied what the session had seen."""
    bypass_snapshot: int = 0
    """... because their database snapshot does not show what is current, and the cache had nothing: misses too."""
    bypass_refused: int = 0
    """... because the sidecar refused, or answered against the contract."""
    invalidate_failovers: int = 0
    """Invalidations that another sidecar than the own one acknowledged."""
    invalidate_failures: int = 0
    """Invalidations that no sidecar acknowledged."""

    @property
    def bypasses(self) -> int:
        """Reads that went to the source and stored nothing, for whatever reason."""
        return sum(value for name, value in self.items() if name.startswith("bypass_"))

    def items(self) -> Iterator[tuple[str, int]]:
        """Every counter with its stable name, for export."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))


class Counters(Locked):
    """The live side: `+=` on an attribute would lose counts between threads."""

    def __init__(self) -> None:
        super().__init__()
        self._counts = {field.name: 0 for field in fields(Stats)}

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self._counts[name] += count

    def snapshot(self) -> Stats:
        with self._lock:
            return Stats(**self._counts)
