"""Real sidecars, memcached and Redis for the tests: processes of their own, on ports that the system chose, ended by their ids."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from grapevine_client import Client, Freshness, GrapevineError

T = TypeVar("T")
SOON_S = 30.0

POLICIES = """
[[policy]]
pattern = "registered/**"
strategy = "registered"
ttl = "5m"
jitter = "0%"

[[policy]]
pattern = "bucketed/**"
strategy = "bucketed(8)"

[[policy]]
pattern = "lapsing/**"
strategy = "ttl"
ttl = "3s"
jitter = "0%"

[[policy]]
pattern = "lagging/**"
source_lag = "1m"

[[policy]]
pattern = "lagging-primary/**"
source_lag = "1m"
on_source_lag = "primary"

[[policy]]
pattern = "paged/**"
paging = 20

[[policy]]
pattern = "elected/**"
fill = "one"

[[policy]]
pattern = "soft/**"
stale_while_revalidate = "1m"

[policy_default]
on_unknown = "bypass"
"""


def eventually(what: str, is_so: Callable[[], T], within_s: float = SOON_S) -> T:
    """Waits until `is_so` answers something true, and answers that."""
    deadline = time.monotonic() + within_s
    while True:
        answer = is_so()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that the system says are free for TCP, and that are free for UDP."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            stream = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            stream.bind(("127.0.0.1", 0))
            port = stream.getsockname()[1]
            datagram = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            try:
                datagram.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
        return ports


class Sidecar:
    """One sidecar, and a client without a cache to ask it."""

    def __init__(
        self,
        name: str,
        directory: pathlib.Path,
        ports: Sequence[int],
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.environment = {**os.environ, **(environment or {})}
        self.log = directory / f"{name}.log"
        self.socket = directory / f"{name}.sock"
        app, peer, gossip = ports
        self.tcp = f"127.0.0.1:{app}"
        self.unix = f"unix:{self.socket}"
        self.command = [
            os.environ["GRAPEVINE_BIN"], "sidecar", "--node-id", name,
            "--data-dir", str(directory / name), "--app-unix", str(self.socket), "--app-tcp", self.tcp,
            "--peer-listen", f"127.0.0.1:{peer}", "--gossip-listen", f"127.0.0.1:{gossip}", *arguments,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.client = Client(self.tcp)
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )

    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def kill(self) -> None:
        """As kill -9 does."""
        self.running().send_signal(signal.SIGKILL)
        self.running().wait()

    def pause(self) -> None:
        """Stops all its threads, and waits until they have stopped."""
        self.running().send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.running().pid, os.WSTOPPED)

    def resume(self) -> None:
        self.running().send_signal(signal.SIGCONT)

    def wait_fresh(self) -> None:
        said = ""

        def is_fresh() -> bool:
            nonlocal said
            assert self.running().poll() is None, f"{self.name} ended:\n{self.tail()}"
            try:
                status = self.client.status()
            except GrapevineError as error:
                said = str(error)
                return False
            said = status.freshness_reason
            return status.freshness is Freshness.FRESH

        try:
            eventually(f"{self.name} is fresh", is_fresh)
        except AssertionError as error:
            raise AssertionError(f"{error}: {said}\n{self.tail()}") from None

    def counters(self) -> dict[str, int]:
        """As an operator sees them."""
        command = [os.environ["GRAPEVINE_BIN"], "status", "--endpoint", self.tcp, "--counters", "--json"]
        counters: dict[str, int] = json.loads(subprocess.check_output(command, timeout=SOON_S))["counters"]
        return counters

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def stop(self) -> None:
        self.client.close()
        process = self.running()
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.kill()


class Cluster:
    """Three of them that know each other."""

    def __init__(self, directory: pathlib.Path, cache_url: str, *more: str) -> None:
        config = directory / "grapevine.toml"
        config.write_text(POLICIES)
        ports = free_ports(9)
        places = [ports[at : at + 3] for at in (0, 3, 6)]
        seeds = ",".join(f"127.0.0.1:{gossip}" for _, _, gossip in places)
        arguments = ["--seeds", seeds, "--expected-members", "3", "--config", str(config), "--cache", cache_url, *more]
        self.sidecars = [Sidecar(name, directory, place, arguments) for name, place in zip("abc", places, strict=True)]

    def __getitem__(self, index: int) -> Sidecar:
        return self.sidecars[index]

    def wait_fresh(self) -> None:
        for sidecar in self.sidecars:
            sidecar.wait_fresh()

    def stop(self) -> None:
        for sidecar in self.sidecars:
            sidecar.stop()


@contextlib.contextmanager
def alone(directory: pathlib.Path, environment: Mapping[str, str] | None = None) -> Iterator[Sidecar]:
    """One sidecar that is its whole cluster, and that nobody else talks to."""
    config = directory / "grapevine.toml"
    config.write_text(POLICIES)
    arguments = ["--expected-members", "1", "--config", str(config)]
    sidecar = Sidecar("alone", directory, free_ports(3), arguments, environment)
    try:
        sidecar.wait_fresh()
        yield sidecar
    finally:
        sidecar.stop()


@contextlib.contextmanager
def server(*command: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that listens on a port of 127.0.0.1 when this begins, and has ended when it ends."""
    program = shutil.which(command[0])
    assert program, f"{command[0]} is not installed"
    process = subprocess.Popen(
        [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def listens() -> bool:
        assert process.poll() is None, f"{command[0]} ended at once"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    try:
        eventually(f"{command[0]} listens", listens)
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def memcached() -> Iterator[str]:
    (port,) = free_ports(1)
    # Over 1,024 connections it wants a limit that not every shell grants.
    command = ["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "64", "-c", "512"]
    if os.geteuid() == 0:
        command += ["-u", "nobody"]
    with server(*command, port=port):
        yield f"memcached://127.0.0.1:{port}"


@contextlib.contextmanager
def redis() -> Iterator[str]:
    (port,) = free_ports(1)
    with server(
        "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", port=port
    ):
        yield f"redis://127.0.0.1:{port}/0"
