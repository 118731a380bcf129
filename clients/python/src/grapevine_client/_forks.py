"""Locks across a fork: a lock that another thread held then stays locked in the child for ever, since that thread is not there."""

from __future__ import annotations

import os
import threading
import weakref


class Locked:
    """Has a lock, which a forked child makes anew. What it guards may be half done there only between two bytecodes of plain
    dictionary operations: all holders keep to those."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _all.add(self)

    def _in_child(self) -> None:
        """What else there is to do in a forked child, when all locks are new."""


_all: weakref.WeakSet[Locked] = weakref.WeakSet()


def _after_fork() -> None:
    every = list(_all)
    for each in every:
        each._lock = threading.Lock()
    for each in every:
        each._in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
