"""Real sidecars and caches for the tests, by the kit that all tests of this repository in Python share: they are run from a
checkout."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pykit
from grapevine_client import Client, Freshness, GrapevineError

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


class Sidecar(pykit.Sidecar):
    """One sidecar, and a client without a cache to ask it."""

    def __init__(self, *place: Any, **more: Any) -> None:
        super().__init__(*place, **more)
        self.client = Client(self.tcp)

    def why_not_fresh(self) -> str | None:
        try:
            status = self.client.status()
        except GrapevineError as error:
            return str(error)
        return None if status.freshness is Freshness.FRESH else status.freshness_reason

    def counters(self) -> dict[str, int]:
        """As an operator sees them."""
        command = [os.environ["GRAPEVINE_BIN"], "status", "--endpoint", self.tcp, "--counters", "--json"]
        counters: dict[str, int] = json.loads(subprocess.check_output(command, timeout=pykit.SOON_S))["counters"]
        return counters

    def close(self) -> None:
        self.client.close()
        super().close()


Cluster = pykit.Cluster[Sidecar]


@contextlib.contextmanager
def three(directory: pathlib.Path, cache_url: str, *more: str) -> Iterator[Cluster]:
    """Three sidecars that know each other."""
    cluster = pykit.Cluster(Sidecar, directory, POLICIES, "--cache", cache_url, *more)
    try:
        cluster.wait_fresh()
        yield cluster
    finally:
        cluster.close()


@contextlib.contextmanager
def alone(directory: pathlib.Path, environment: Mapping[str, str] | None = None) -> Iterator[Sidecar]:
    """One sidecar that is its whole cluster, and that nobody else talks to."""
    config = directory / "grapevine.toml"
    config.write_text(POLICIES)
    arguments = ["--expected-members", "1", "--config", str(config)]
    sidecar = Sidecar("alone", directory, pykit.free_ports(Sidecar.PORTS), arguments, environment)
    try:
        sidecar.wait_fresh()
        yield sidecar
    finally:
        sidecar.close()
