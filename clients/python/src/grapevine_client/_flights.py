"""Single flight: of the callers in this process that miss the same value at the same moment, one computes it.

A flight belongs to a key, and the key holds the token: callers meet only when their look-ups knew the same bumps, so a caller never
gets a value whose read began before an invalidation that its own look-up had seen (G3).

One caller at a time leads. When the leader has a result it *publishes*: all who wait get it. When it goes without one (it was
cancelled, or its thread is being ended), the next who waits leads with its own loader: nobody hangs. A published flight stays in
the table until its leader has stored the value, so that callers who come in that moment are served too.

One caller can still fall between: it missed in the cache, then the leader stored and was removed, then the caller joined and
leads a new flight. Counts of finished flights, in slots by key, tell it to look into the cache once more. The table holds one
entry per key that somebody waits for: it is bounded by the callers.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from grapevine_client._forks import Locked
from grapevine_client._io import Io, Waiter

R = TypeVar("R")
_SLOTS = 1_024


class _Flight(Generic[R]):
    def __init__(self) -> None:
        self.result: R | None = None
        self.leader: object = None
        self.leaders = 0
        self.seats = 0
        self.waiters: list[Waiter] = []


class Flights(Locked, Generic[R]):
    """The flights under way."""

    def __init__(self, io: Io) -> None:
        # Its lock is held for a few dictionary operations, and never across an await.
        super().__init__()
        self._io = io
        self._flights: dict[Hashable, _Flight[R]] = {}
        self._finished = [0] * _SLOTS
        self.refreshing: set[Hashable] = set()
        """Whose new values are being computed in the background."""

    def _in_child(self) -> None:
        # Those who lead them, and their readers, are threads of the parent.
        self._flights = {}
        self.refreshing = set()

    def finished(self, key: Hashable) -> int:
        """To be taken before the look into the cache, and compared after joining."""
        return self._finished[hash(key) % _SLOTS]

    def sit(self, key: Hashable) -> Seat[R]:
        with self._lock:
            flight = self._flights.setdefault(key, _Flight())
            flight.seats += 1
        return Seat(self, key, flight)

    def __len__(self) -> int:
        return len(self._flights)


class Seat(Generic[R]):
    """A caller's part in a flight; to be left, for everybody's good."""

    def __init__(self, flights: Flights[R], key: Hashable, flight: _Flight[R]) -> None:
        self._flights = flights
        self._key = key
        self._flight = flight
        self._leads = False
        self._published = False
        self.after_another = False
        """Whether another leader went without a result."""
        self.own_flight = False
        """Whether this caller leads the flight already: its loader asks for the value that it is computing."""

    async def turn(self) -> R | None:
        """Waits until there is a result, which is another caller's, or nobody else computes one: then None, to lead."""
        flight, lock, io = self._flight, self._flights._lock, self._flights._io
        while True:
            with lock:
                if flight.result is not None:
                    return flight.result
                if flight.leader is None:
                    flight.leader = io.caller()
                    self.after_another = flight.leaders > 0
                    flight.leaders += 1
                    self._leads = True
                    return None
                if flight.leader == io.caller():
                    self.own_flight = True
                    return None
                waiter = io.waiter()
                flight.waiters.append(waiter)
            try:
                await waiter.wait()
            except BaseException:
                with lock:
                    if waiter in flight.waiters:
                        flight.waiters.remove(waiter)
                    elif flight.leader is None:
                        # It had been woken to lead: somebody else must.
                        self._wake_next()
                raise

    def others_finished_since(self, before: int) -> bool:
        """Whether a flight of this key may have finished since: its value may be in the cache."""
        return self._flights.finished(self._key) != before

    def publish(self, result: R) -> None:
        """Hands the result to everybody who waits, and to those who come until this seat is left."""
        if not self._leads or self._published:
            return
        flight = self._flight
        with self._flights._lock:
            flight.result, self._published = result, True
            waiters, flight.waiters = flight.waiters, []
        for waiter in waiters:
            waiter.wake()

    def leave(self) -> None:
        flights, flight = self._flights, self._flight
        with flights._lock:
            flight.seats -= 1
            current = flights._flights.get(self._key) is flight
            if self._leads and self._published:
                if current:
                    del flights._flights[self._key]
                flights._finished[hash(self._key) % _SLOTS] += 1
                return
            if self._leads:
                flight.leader = None
                self._wake_next()
            if flight.seats == 0 and current:
                del flights._flights[self._key]

    def _wake_next(self) -> None:
        if self._flight.waiters:
            self._flight.waiters.pop(0).wake()
