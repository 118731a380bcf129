"""Servers of caches, each on a port of its own. They keep nothing, so they are ended by force."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Sequence

from pykit.ports import free_ports
from pykit.processes import Process
from pykit.waiting import NotYet, eventually


class Server(Process):
    """One that listens when this was made, and has ended when it is left."""

    def __init__(self, command: Sequence[str], port: int, url: str) -> None:
        program = shutil.which(command[0])
        assert program, f"{command[0]} is not installed"
        self.port, self.url = port, url
        super().__init__(command[0], [program, *command[1:]], None)
        try:
            eventually(self._listens, what=f"{self.name} listens on {port}")
        except BaseException:
            self.stop()
            raise

    def _listens(self) -> bool | NotYet:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError as error:
            return self.lives() and NotYet(error)
        return True

    def stop(self) -> None:
        self.kill()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def memcached() -> Server:
    (port,) = free_ports(1)
    # Over 1,024 connections it wants a limit that not every shell grants.
    command = ["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "64", "-c", "512"]
    if os.geteuid() == 0:
        command += ["-u", "nobody"]
    return Server(command, port, f"memcached://127.0.0.1:{port}")


def redis() -> Server:
    (port,) = free_ports(1)
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return Server(command, port, f"redis://127.0.0.1:{port}/0")
