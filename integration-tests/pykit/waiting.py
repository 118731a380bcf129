"""Conditions with deadlines.

A condition is a function that is asked again and again until it answers something true, which is given back. What it raises ends
the waiting at once: so a condition can say that what is awaited can no longer come. It is asked at least once; an answer that comes
when the time is over is the last one, and the failure says what was awaited and what was seen last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

T = TypeVar("T")

SOON_S = 30.0
"""Long enough for a busy machine."""
_PAUSE_S = 0.02


class NotYet:
    """An answer that is not true, and says what was seen instead."""

    def __init__(self, seen: object) -> None:
        self.seen = seen

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return str(self.seen)


class _Deadline:
    def __init__(self, within: float, what: str) -> None:
        self.within, self.what = within, what
        self.at = time.monotonic() + within

    def check(self, seen: object) -> None:
        if time.monotonic() >= self.at:
            raise AssertionError(f"not within {self.within:g} s: {self.what}; last seen: {seen!r}")


def eventually(condition: Callable[[], T | NotYet], *, within: float = SOON_S, what: str) -> T:
    """Waits for at most `within` seconds until the condition answers something true, and answers that."""
    deadline = _Deadline(within, what)
    while not (answer := condition()):
        deadline.check(answer)
        time.sleep(_PAUSE_S)
    return answer


async def eventually_async(condition: Callable[[], Awaitable[T | NotYet]], *, within: float = SOON_S, what: str) -> T:
    """The same in a task, for a coroutine function."""
    deadline = _Deadline(within, what)
    while not (answer := await condition()):
        deadline.check(answer)
        await asyncio.sleep(_PAUSE_S)
    return answer
