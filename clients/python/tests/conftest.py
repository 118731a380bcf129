from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

import cluster as kit
import pykit
from grapevine_client import Client, Settings

# Time for a busy machine: whether a deadline is kept is no matter of these tests unless they say so.
PATIENT = Settings(resolve_deadline_s=5.0, commit_deadline_s=5.0, turn_deadline_s=5.0)


def pytest_configure(config: pytest.Config) -> None:
    if not os.access(os.environ.get("GRAPEVINE_BIN", ""), os.X_OK):
        raise pytest.UsageError("GRAPEVINE_BIN must name the program `grapevine`: the tests run real sidecars")


@pytest.fixture(scope="session")
def memcached_url() -> Iterator[str]:
    with pykit.memcached() as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with pykit.redis() as server:
        yield server.url


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, memcached_url: str) -> Iterator[kit.Cluster]:
    """Three sidecars, which no test stops."""
    with kit.three(tmp_path_factory.mktemp("c"), memcached_url) as cluster:
        yield cluster


@pytest.fixture
def own_cluster(tmp_path_factory: pytest.TempPathFactory, memcached_url: str) -> Iterator[kit.Cluster]:
    """Three sidecars of one test, which may kill them."""
    with kit.three(tmp_path_factory.mktemp("o"), memcached_url) as cluster:
        yield cluster


_numbers = itertools.count(1)


@pytest.fixture
def n() -> int:
    """A number that no other test has, for classes and addresses."""
    return next(_numbers)


@pytest.fixture(params=["memcached", "redis"])
def cache_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def clients(cluster: kit.Cluster) -> Iterator[Callable[..., Client]]:
    """Makes clients of one of the three, and closes them."""
    made: list[Client] = []

    def make(node: int = 0, cache: object = "memory://", settings: Settings = PATIENT, **more: object) -> Client:
        client = Client(cluster[node].tcp, cache=cache, settings=settings, **more)  # type: ignore[arg-type]
        made.append(client)
        # On a busy machine connecting may take longer than it may for a read.
        client.wait_until_ready()
        return client

    yield make
    for client in made:
        client.close()
