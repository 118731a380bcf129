"""The FastAPI example, over HTTP in the process and real sidecars."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from types import ModuleType
from typing import Any

import pytest
from fastapi.testclient import TestClient

from cluster import Cluster

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "fastapi_app.py"


def instance(name: str) -> ModuleType:
    """One more instance of the application, as another process has it."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("cache", ["memcached", "redis"])
def test_reads_are_cached_and_a_session_sees_its_write_at_another_instance(
    cluster: Cluster,
    memcached_url: str,
    redis_url: str,
    n: int,
    cache: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOP_DB", str(tmp_path / "shop.db"))
    monkeypatch.setenv("CACHE_URL", memcached_url if cache == "memcached" else redis_url)
    headers: dict[str, str] = {}
    seen: list[Any] = []
    for node, round_ in ((0, 1), (1, 2), (2, 3), (0, 4)):
        # One after another: the default client is one per process.
        monkeypatch.setenv("GRAPEVINE_ENDPOINT", cluster[node].tcp)
        with TestClient(instance(f"fastapi_app_{cache}_{round_}").app) as http:
            assert http.get(f"/carts/{n}", headers=headers).json() == seen
            added = {"name": f"apple {round_}", "price": round_}
            answer = http.post(f"/carts/{n}/items", json=added, headers=headers)
            assert answer.status_code == 201, answer.text
            headers = {"grapevine-session": answer.headers["grapevine-session"]}
            seen.append(added)
            for _ in range(3):
                assert http.get(f"/carts/{n}", headers=headers).json() == seen
            counters = http.get("/metrics/cache").json()
            assert counters["fills"] >= 1
            assert counters["hits"] >= 2
    assert http.app is not None


def test_a_malformed_session_is_a_400_and_no_sidecar_a_503(
    cluster: Cluster, tmp_path: pathlib.Path, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DB", str(tmp_path / "shop.db"))
    monkeypatch.setenv("GRAPEVINE_ENDPOINT", "127.0.0.1:1")
    with TestClient(instance("fastapi_app_alone").app) as http:
        answer = http.get(f"/carts/{n}", headers={"grapevine-session": "xyz"})
        assert (answer.status_code, "hexadecimal" in answer.text) == (400, True)
        # Reads go to the source; a write that nobody would bump for is refused before it is made.
        assert http.get(f"/carts/{n}").json() == []
        answer = http.post(f"/carts/{n}/items", json={"name": "apple", "price": 1})
        assert (answer.status_code, "no sidecar began the write" in answer.text) == (503, True)
        assert http.get(f"/carts/{n}").json() == []
        counters = http.get("/metrics/cache").json()
        # On a busy machine a connection may take longer to fail than a look-up may take.
        assert counters["bypass_unreachable"] + counters["bypass_deadline"] == 2


def test_g1_a_write_that_is_refused_is_a_503_too(
    cluster: Cluster, tmp_path: pathlib.Path, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DB", str(tmp_path / "shop.db"))
    monkeypatch.setenv("GRAPEVINE_ENDPOINT", cluster[0].peer_tcp)
    with TestClient(instance("fastapi_app_at_the_peers_port").app) as http:
        answer = http.post(f"/carts/{n}/items", json={"name": "apple", "price": 1})
        assert (answer.status_code, "is this its address for applications" in answer.text) == (503, True)
        assert http.get(f"/carts/{n}").json() == []
