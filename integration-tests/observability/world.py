"""Three sidecars with a memcached, applications that call them, and a Prometheus that scrapes them: all processes of their own,
on loopback."""

import json
import math
import pathlib
import re
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request

import grpc
import pytest
from grapevine.v1 import application_pb2 as app
from grapevine.v1 import types_pb2 as types

import cached
import cluster
import memcached
import pykit
from pykit import NotYet, eventually, free_ports

JOB = "grapevine"
POLICIES = (
    cluster.POLICIES
    + """
[[policy]]
pattern = "elected/**"
fill = "one"
"""
)
# Longer than the tests keep a sidecar silent: what its peers are to say of it, they are to say for longer than a scrape takes.
CRASH_TIMEOUT = "1m"


class Sidecar(cluster.Sidecar):
    """One that serves metrics as well."""

    PORTS = 4

    def __init__(self, name, directory, ports, arguments, environment=None):
        *ports, metrics = ports
        self.metrics = f"127.0.0.1:{metrics}"
        super().__init__(name, directory, ports, [*arguments, "--metrics-listen", self.metrics], environment)

    def scraped(self) -> str:
        """Its metrics, as it answers them to anybody."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def invalidate(self, *classes: str, receipt: int = types.RECEIPT_LEVEL_NONE, timeout_ms: int = 10_000):
        return cached.invalidate(self, *classes, receipt=receipt, timeout_ms=timeout_ms)

    def register(self, addresses: list[str], class_path: str):
        registrations = [app.Registration(address=address, classes=[class_path]) for address in addresses]
        return self.app.Register(app.RegisterRequest(registrations=registrations), timeout=self.timeout_s)


class Prometheus(pykit.Process):
    """A server of its own, which scrapes what `look_at` tells it."""

    def __init__(self, directory: pathlib.Path):
        self.targets = directory / "targets.json"
        self.look_at([])
        config = directory / "prometheus.yml"
        config.write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                    "scrape_configs": [
                        {"job_name": JOB, "file_sd_configs": [{"files": [str(self.targets)], "refresh_interval": "1s"}]}
                    ],
                }
            )
        )
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        program = shutil.which("prometheus")
        assert program, "prometheus is not installed"
        command = [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'prometheus'}",
            f"--web.listen-address={self.address}",
        ]
        super().__init__("Prometheus", command, directory / "prometheus.log")
        eventually(self.is_ready, what="Prometheus is ready")

    def look_at(self, sidecars: list[Sidecar]) -> None:
        # Moved into its place: a file that is half written is no list.
        written = self.targets.with_suffix(".new")
        written.write_text(json.dumps([{"targets": [sidecar.metrics for sidecar in sidecars]}]))
        written.rename(self.targets)

    def is_ready(self) -> bool | NotYet:
        self.lives()
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError as error:
            return NotYet(error)

    def asked(self, path: str, **parameters: str):
        """What its API answers; an error of it, as of a query that cannot be read, is the test's."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def value(self, expr: str) -> list[dict]:
        """The series that an expression has now, with values that are numbers."""
        found = self.asked("query", query=expr)["result"]
        return [series for series in found if math.isfinite(float(series["value"][1]))]


class Load:
    """Applications: a thread beside each sidecar that reads, fills, invalidates, declares writes, waits its turn, reports, and
    calls wrongly."""

    def __init__(self, sidecars: list[Sidecar], cache_port: int):
        self.cache_port = cache_port
        self.stopped = threading.Event()
        self.errors = []
        self.threads = [threading.Thread(target=self.guarded, args=(sidecar,)) for sidecar in sidecars]
        for thread in self.threads:
            thread.start()

    def guarded(self, sidecar: Sidecar) -> None:
        try:
            cache = memcached.Connection(self.cache_port)
            turn = 0
            while not self.stopped.wait(0.02):
                self.calls(sidecar, cache, turn)
                turn += 1
        except Exception as error:  # whatever it is, the tests fail with it
            self.errors.append(f"{sidecar.name}: {error!r}")

    def calls(self, sidecar: Sidecar, cache: memcached.Connection, turn: int) -> None:
        key = turn % 10
        for family in ("load", "registered", "bucketed"):
            cached.read(sidecar, cache, f"{family}::{key}", f"{family}/{key}", lambda: b"value")
        if turn % 5 == 0:
            sidecar.invalidate(f"load/{key}", f"registered/{key}", receipt=types.RECEIPT_LEVEL_ALL)
        if turn % 10 == 0:
            self.write(sidecar, commits=turn % 20 == 0)
            self.elected(sidecar, f"elected::{sidecar.name}{turn}")
            self.wrong(sidecar)
            reads = app.ReportReadsRequest(hits=25, misses=5, stale_served=1, bypasses=1, audits=1)
            sidecar.app.ReportReads(reads, timeout=sidecar.timeout_s)

    def write(self, sidecar: Sidecar, commits: bool) -> None:
        begun = sidecar.app.BeginWrite(app.BeginWriteRequest(classes=["written"]), timeout=sidecar.timeout_s)
        if commits:
            what = app.InvalidateRequest(classes=["written"])
            sidecar.app.CommitWrite(
                app.CommitWriteRequest(intent=begun.intent, invalidation=what), timeout=sidecar.timeout_s
            )
        else:
            sidecar.app.AbortWrite(app.AbortWriteRequest(intent=begun.intent), timeout=sidecar.timeout_s)

    def elected(self, sidecar: Sidecar, address: str) -> None:
        resolution, _ = cached.resolve(sidecar, address, "elected/a")
        request = app.AcquireFillRequest(address=resolution.targets[0].address, token=resolution.token)
        turns = sidecar.app.AcquireFill(request, timeout=sidecar.timeout_s)
        turn = next(turns)
        if turn.fill:
            sidecar.app.FinishFill(app.FinishFillRequest(fill=turn.fill, stored=True), timeout=sidecar.timeout_s)
        turns.cancel()

    def wrong(self, sidecar: Sidecar) -> None:
        """A call that the caller has to answer for, and one that the sidecar has."""
        unknown = sidecar.channel.unary_unary("/grapevine.v1.ApplicationService/Nothing")
        for call, expected in (
            (lambda: cached.resolve(sidecar, "", "a"), grpc.StatusCode.INVALID_ARGUMENT),
            (lambda: unknown(b"", timeout=sidecar.timeout_s), grpc.StatusCode.UNIMPLEMENTED),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() == expected, refused.value

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()


class World:
    """All of it. What a test stops or adds is ended with the rest."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.cache = self.prometheus = self.load = None
        self.sidecars: list[Sidecar] = []
        try:
            self.begin()
        except BaseException:
            self.stop()
            raise

    def begin(self) -> None:
        self.cache = pykit.memcached()
        more = ["--cache", self.cache.url, "--freshness-crash-timeout", CRASH_TIMEOUT]
        cluster = pykit.Cluster(Sidecar, self.directory, POLICIES, *more)
        self.config, self.sidecars = cluster.config, cluster.sidecars
        cluster.wait_fresh(within=40)
        self.prometheus = Prometheus(self.directory)
        self.prometheus.look_at(self.sidecars)
        self.load = Load(self.sidecars, self.cache.port)

        # From then on rates over ten seconds are what they are to be.
        def full():
            return len(self.prometheus.value(f'count_over_time(up{{job="{JOB}"}}[15s]) >= 12')) == 3

        eventually(full, within=60, what="Prometheus has scraped for a while")

    def alone(self, name: str, *arguments: str, **variables: str) -> Sidecar:
        """Another sidecar, in a cluster of its own, that Prometheus scrapes with the rest."""
        sidecar = Sidecar(name, self.directory, free_ports(Sidecar.PORTS), arguments, variables)
        self.sidecars.append(sidecar)
        sidecar.wait_fresh()
        self.prometheus.look_at(self.sidecars)
        return sidecar

    def as_grafana_asks(self, expr: str) -> str:
        """The query with its variables as Grafana fills them in: all sidecars chosen, each by its name, as a regular expression."""
        instances = "|".join(re.escape(sidecar.metrics) for sidecar in self.sidecars).replace("\\", "\\\\")
        filled = expr.replace("$__rate_interval", "10s").replace("$job", JOB).replace("$instance", instances)
        assert "$" not in filled, filled
        return filled

    def stop(self) -> None:
        if self.load:
            self.load.stop()
        if self.prometheus:
            self.prometheus.stop()
        for sidecar in self.sidecars:
            # Nobody needs their drains any more.
            sidecar.kill()
            sidecar.close()
        if self.cache:
            self.cache.stop()
