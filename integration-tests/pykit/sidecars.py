"""Real sidecars on loopback. `GRAPEVINE_BIN` names the program."""

from __future__ import annotations

import abc
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

from pykit.ports import free_ports
from pykit.processes import Process
from pykit.waiting import SOON_S, NotYet, eventually

S = TypeVar("S", bound="Sidecar")


class Sidecar(Process, abc.ABC):
    """One of them: its process, and where it is. Its directory must have a short path, for a socket lies in there."""

    PORTS: ClassVar[int] = 3
    """How many it takes."""

    def __init__(
        self,
        name: str,
        directory: pathlib.Path,
        ports: Sequence[int],
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        app, peer, self.gossip_port = ports
        self.socket = directory / f"{name}.sock"
        self.tcp, self.unix = f"127.0.0.1:{app}", f"unix:{self.socket}"
        self.peer_tcp = f"127.0.0.1:{peer}"
        command = [
            os.environ["GRAPEVINE_BIN"], "sidecar", "--node-id", name,
            "--data-dir", str(directory / name), "--app-unix", str(self.socket), "--app-tcp", self.tcp,
            "--peer-listen", self.peer_tcp, "--gossip-listen", f"127.0.0.1:{self.gossip_port}", *arguments,
        ]  # fmt: skip
        super().__init__(name, command, directory / f"{name}.log", environment)

    @abc.abstractmethod
    def why_not_fresh(self) -> str | None:
        """Asks it: what it says, or why it cannot be asked; None when it is fresh."""

    def is_fresh(self) -> bool | NotYet:
        self.lives()
        why = self.why_not_fresh()
        return True if why is None else NotYet(why)

    def wait_fresh(self, within: float = SOON_S) -> None:
        try:
            eventually(self.is_fresh, within=within, what=f"{self.name} is fresh")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def close(self) -> None:
        """Has it end for good, and what asks it with it."""
        self.stop()


class Cluster(Generic[S]):
    """Three of them that know each other."""

    def __init__(self, kind: type[S], directory: pathlib.Path, policies: str, *more: str) -> None:
        self.config = directory / "grapevine.toml"
        self.config.write_text(policies)
        places = [free_ports(kind.PORTS) for _ in range(3)]
        # The third one, as `Sidecar` takes them.
        seeds = ",".join(f"127.0.0.1:{place[2]}" for place in places)
        arguments = ["--seeds", seeds, "--expected-members", "3", "--config", str(self.config), *more]
        self.sidecars: list[S] = []
        try:
            for name, place in zip("abc", places, strict=True):
                self.sidecars.append(kind(name, directory, place, arguments))
        except BaseException:
            self.close()
            raise

    def __getitem__(self, index: int) -> S:
        return self.sidecars[index]

    def wait_fresh(self, within: float = SOON_S) -> None:
        for sidecar in self.sidecars:
            sidecar.wait_fresh(within)

    def close(self) -> None:
        # All are told before any is waited for: a drain takes a while.
        for sidecar in self.sidecars:
            sidecar.terminate()
        for sidecar in self.sidecars:
            sidecar.close()
