"""Ports for processes that a test starts.

They lie below those that systems draw by themselves for connections: so one whose owner was stopped is still free when it starts
again.
"""

from __future__ import annotations

import contextlib
import random
import socket

_PORTS = range(15_000, 32_000)
_ATTEMPTS = 10_000
# In this process: whoever was given one may not have begun to listen.
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """So many ports of 127.0.0.1 that the system says are free, for TCP and for UDP, and that nobody here was given before."""
    ports: list[int] = []
    for _ in range(_ATTEMPTS):
        if len(ports) == count:
            return ports
        port = random.choice(_PORTS)
        if port not in _given and _is_free(port):
            _given.add(port)
            ports.append(port)
    raise AssertionError(f"fewer than {count} ports from {_PORTS.start} to {_PORTS.stop} are free")


def _is_free(port: int) -> bool:
    with contextlib.ExitStack() as held:
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                held.enter_context(socket.socket(socket.AF_INET, kind)).bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
