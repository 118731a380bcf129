"""Three sidecars as processes of their own, and clients of them."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import time

import grpc
from grapevine.v1 import admin_pb2, admin_pb2_grpc, application_pb2_grpc, types_pb2

CALL_TIMEOUT_S = 20

POLICIES = """
[[policy]]
pattern = "registered/**"
strategy = "registered"
ttl = "5m"

[[policy]]
pattern = "bucketed/**"
strategy = "bucketed(8)"

[[policy]]
pattern = "lapsing/**"
strategy = "ttl"
ttl = "2s"
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
pattern = "long/**"
long_address = "hash"
"""


def eventually(what: str, is_so, within_s: float = 20.0):
    """Waits until `is_so` answers something true, and answers that."""
    deadline = time.monotonic() + within_s
    while True:
        answer = is_so()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free for TCP and UDP now, below those that systems draw by themselves."""
    held, ports = [], []
    while len(ports) < count:
        port = random.randrange(15_000, 32_000)
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                held.append(socket.socket(socket.AF_INET, kind))
                held[-1].bind(("127.0.0.1", port))
        except OSError:
            continue
        ports.append(port)
    for each in held:
        each.close()
    return ports


class Stubs:
    """The services of a sidecar that listens on a Unix socket, and how long a call may take."""

    def __init__(self, path, timeout_s: float = CALL_TIMEOUT_S):
        # A channel of its own per sidecar: equal ones would share a connection, and its backoff.
        options = [
            # Over a Unix socket grpcio sends the socket's path as authority, which HTTP/2 servers in Rust refuse.
            ("grpc.default_authority", "localhost"),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ]
        self.timeout_s = timeout_s
        self.channel = grpc.insecure_channel(f"unix:{path}", options)
        self.app = application_pb2_grpc.ApplicationServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)


class Sidecar(Stubs):
    """One sidecar: its process, and the stubs of its services."""

    def __init__(self, name: str, directory: pathlib.Path, ports: list[int], arguments: list[str]):
        self.name = name
        self.log = directory / f"{name}.log"
        self.socket = directory / f"{name}.sock"
        app, peer, gossip = ports
        self.tcp = f"127.0.0.1:{app}"
        self.command = [
            os.environ["GRAPEVINE_BIN"], "sidecar", "--node-id", name,
            "--data-dir", str(directory / name), "--app-unix", str(self.socket), "--app-tcp", self.tcp,
            "--peer-listen", f"127.0.0.1:{peer}", "--gossip-listen", f"127.0.0.1:{gossip}", *arguments,
        ]  # fmt: skip
        self.process = None
        super().__init__(self.socket)
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def status(self):
        return self.admin.Status(admin_pb2.StatusRequest(), timeout=CALL_TIMEOUT_S)

    def members(self):
        return self.admin.Members(admin_pb2.MembersRequest(), timeout=CALL_TIMEOUT_S).members

    def is_fresh(self) -> bool:
        assert self.process.poll() is None, f"{self.name} ended:\n{self.tail()}"
        try:
            status = self.status()
            self.last_said = status.freshness_reason
            return status.freshness == types_pb2.FRESHNESS_FRESH
        except grpc.RpcError as error:
            self.last_said = str(error)
            return False

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


class Cluster:
    """Three of them that know each other."""

    def __init__(self, directory: pathlib.Path, cache_port: int | None):
        config = directory / "grapevine.toml"
        config.write_text(POLICIES)
        ports = free_ports(9)
        places = [ports[at : at + 3] for at in (0, 3, 6)]
        seeds = ",".join(f"127.0.0.1:{gossip}" for _, _, gossip in places)
        arguments = ["--seeds", seeds, "--expected-members", "3", "--config", str(config)]
        if cache_port:
            arguments += ["--cache", f"memcached://127.0.0.1:{cache_port}"]
        self.sidecars = []
        for name, place in zip("abc", places, strict=True):
            self.sidecars.append(Sidecar(name, directory, place, arguments))

    def wait_fresh(self) -> None:
        for sidecar in self.sidecars:
            try:
                eventually(f"{sidecar.name} is fresh", sidecar.is_fresh)
            except AssertionError as error:
                raise AssertionError(f"{error}: {sidecar.last_said}\n{sidecar.tail()}") from None

    def stop(self) -> None:
        for sidecar in self.sidecars:
            if sidecar.process.poll() is None:
                sidecar.process.terminate()
        for sidecar in self.sidecars:
            sidecar.channel.close()
            try:
                sidecar.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                sidecar.kill()
