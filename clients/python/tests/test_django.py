"""The cache backend of Django, against real sidecars and memcached."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import CacheHandler
from django.core.cache.backends.base import BaseCache, InvalidCacheKey

from cluster import Cluster
from conftest import PATIENT
from grapevine_client import ConfigError, InvalidRequest, NoSidecar, Receipt
from grapevine_client.contrib.django import GrapevineCache
from pykit import eventually

if not settings.configured:
    settings.configure()


def classes_of(key: str) -> list[str]:
    """`cart:13:page` is in the class of its cart."""
    kind, _, rest = key.partition(":")
    return [f"django-carts/{rest.split(':')[0]}"] if kind == "cart" else []


Make = Callable[..., BaseCache]


@pytest.fixture
def make(cluster: Cluster, memcached_url: str, n: int) -> Make:
    """Backends as Django makes them: each as another thread, or another process, has it."""

    def make(node: int = 0, **more: Any) -> BaseCache:
        options = {
            "cache": memcached_url,
            "classes": "test_django.classes_of",
            "class_prefix": f"django{n}",
            "settings": PATIENT,
            **more.pop("OPTIONS", {}),
        }
        handler = CacheHandler(
            {
                "default": {
                    "BACKEND": "grapevine_client.contrib.django.GrapevineCache",
                    "LOCATION": [cluster[node].tcp],
                    "OPTIONS": options,
                    "KEY_PREFIX": str(n),
                    **more,
                }
            }
        )
        return handler["default"]

    return make


def test_the_interface_of_django(make: Make, cluster: Cluster) -> None:
    cache = make()
    assert isinstance(cache, GrapevineCache)
    assert cache.get("k") is None
    assert cache.get("k", "absent") == "absent"
    cache.set("k", {"a": (1, {2})})
    assert cache.get("k") == {"a": (1, {2})}
    cache.set("none", None)
    assert cache.get("none", "absent") is None
    assert "k" in cache
    assert not cache.add("k", 2)
    assert cache.add("new", 2)
    assert cache.incr("new", 3) == 5
    assert cache.decr("new") == 4
    with pytest.raises(ValueError, match="not found"):
        cache.incr("absent")
    assert cache.set_many({"a/b": 1, "ü": 2}) == []
    assert cache.get_many(["a/b", "ü", "absent"]) == {"a/b": 1, "ü": 2}
    assert cache.touch("k", 100)
    assert not cache.touch("absent", 100)
    assert cache.delete("k")
    assert not cache.delete("k")
    assert cache.get("k") is None
    cache.delete_many(["a/b", "ü"])
    assert cache.get_many(["a/b", "ü"]) == {}
    cache.set("k", 1, version=2)
    assert (cache.get("k"), cache.get("k", version=2)) == (None, 1)
    assert cache.incr_version("k", version=2) == 3
    assert (cache.get("k", version=2), cache.get("k", version=3)) == (None, 1)
    cache.set("k", 1)
    cache.set("k", 2, timeout=0)
    assert cache.get("k") is None
    assert not cache.set("k", 1, timeout=-1)
    cache.set("k", 1, timeout=None)
    cache.clear()
    assert cache.get_many(["k", "new", "none"]) == {}
    # What was cleared can be added again.
    assert cache.add("new", 3)


@pytest.mark.parametrize("prefix", ["django-v", "registered", "bucketed"])
def test_what_is_deleted_at_one_sidecar_is_gone_at_all(make: Make, n: int, prefix: str) -> None:
    backends = [make(node, OPTIONS={"class_prefix": f"{prefix}/{n}"}) for node in range(3)]
    backends[0].set("k", "old")
    for backend in backends:
        assert backend.get("k") == "old"
    backends[1].delete("k")
    for backend in backends:
        eventually(lambda backend=backend: backend.get("k") is None, what="the news is everywhere")
    assert backends[2].add("k", "new")
    assert not backends[0].add("k", "newer")
    assert [backend.get("k") for backend in backends] == ["new"] * 3


def test_an_invalidation_of_a_class_reaches_its_keys(make: Make, n: int) -> None:
    cache, other = make(0), make(1)
    cart, page = f"cart:{n}:total", f"cart:{n}:page"
    cache.set_many({cart: 1, page: 2, "other": 3})
    outcome = other.grapevine.invalidate([f"django-carts/{n}"], receipt=Receipt.ALL)
    assert outcome.receipt_satisfied
    assert cache.get_many([cart, page, "other"]) == {"other": 3}


def test_g3_get_or_set_is_fenced_and_computes_once(make: Make, n: int) -> None:
    cache, loads = make(), 0
    key = f"cart:{n}:total"

    def overtaken() -> str:
        make(1).grapevine.invalidate([f"django-carts/{n}"], receipt=Receipt.ALL)
        return "old"

    assert cache.get_or_set(key, overtaken) == "old"
    assert cache.get(key) is None
    before = cache.grapevine.stats().misses

    def load() -> str:
        nonlocal loads
        loads += 1
        eventually(lambda: cache.grapevine.stats().misses >= before + 16, what="all have missed")
        return "new"

    barrier = threading.Barrier(16)

    def read(_: int) -> Any:
        backend = make()
        barrier.wait(30)
        return backend.get_or_set(key, load)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(read, range(16))) == ["new"] * 16
    assert loads == 1
    assert cache.get_or_set(key, "a value as it is") == "new"
    assert cache.get_or_set("plain", "a value as it is") == "a value as it is"
    assert cache.get("plain") == "a value as it is"


def test_g3_a_set_behind_a_get_that_missed_goes_under_the_look_up_of_the_get(make: Make, n: int) -> None:
    for key in (f"cart:{n}:total", f"cart:{n}:page"):
        cache = make()
        assert cache.get(key) is None
        make(1).grapevine.invalidate([f"django-carts/{n}"], receipt=Receipt.ALL)
        cache.set(key, "read before the invalidation")
        assert cache.get(key) is None
        # Once; and without a get there is nothing to go by.
        cache.set(key, "new")
        assert cache.get(key) == "new"
    # A request's look-ups end with it.
    cache = make()
    assert cache.get("k") is None
    cache.close()
    cache.delete("k")
    cache.set("k", 1)
    assert cache.get("k") == 1


def test_a_sidecar_that_is_gone_makes_misses_and_stores_nothing(own_cluster: Cluster, memcached_url: str) -> None:
    cache = GrapevineCache(own_cluster[0].tcp, {"OPTIONS": {"cache": memcached_url, "settings": PATIENT}})
    cache.set("k", 1)
    own_cluster[0].kill()
    assert cache.get("k") is None
    assert cache.set_many({"k": 2}) == ["k"]
    assert not cache.add("new", 1)
    assert cache.get_or_set("k", lambda: 3) == 3
    with pytest.raises(NoSidecar):
        cache.delete("k")
    own_cluster[0].start()
    eventually(lambda: cache.get("k") == 1, what="it is back")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("carts/13", "for the key 'k' it answered 'carts/13', a str; it must be a list of classes, ['carts/13'] say"),
        # Without a slash each letter was a good class.
        ("carts", "for the key 'k' it answered 'carts', a str; it must be a list of classes"),
        (None, "for the key 'k' it answered None, a NoneType; it must be a list of classes"),
        (7, "it answered 7, an int; it must be a list of classes"),
        (b"ab", "it answered b'ab', a bytes; it must be a list of classes"),
        ({"carts/13"}, "it answered {'carts/13'}, a set; it must be a list of classes"),
        (["carts/13", 7], "it answered ['carts/13', 7], a list that holds an int; it must be a list of classes"),
    ],
)
def test_classes_that_are_no_list_are_refused(make: Make, answer: Any, says: str) -> None:
    cache = make(OPTIONS={"classes": lambda key: answer})
    for call in (
        lambda: cache.get("k"),
        lambda: cache.set("k", 1),
        lambda: cache.add("k", 1),
        lambda: cache.get_or_set("k", lambda: 1),
        lambda: cache.delete("k"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            call()
        (violation,) = caught.value.violations
        assert violation.field == "OPTIONS['classes']"
        assert says in violation.description


def test_classes_may_be_a_tuple(make: Make, n: int) -> None:
    cache = make(OPTIONS={"classes": lambda key: (f"django-tuple/{n}",)})
    assert isinstance(cache, GrapevineCache)
    cache.set("k", 1)
    assert cache.get("k") == 1
    cache.grapevine.invalidate([f"django-tuple/{n}"])
    assert cache.get("k") is None


def test_wrong_configurations_and_keys_are_named(make: Make) -> None:
    options = {"cache": "memory://"}
    for location, given, says in (
        ("", options, "LOCATION is empty"),
        ("127.0.0.1:7400", {}, "'cache' is missing"),
        ("127.0.0.1:7400", {**options, "servers": 1}, "'servers' is not known; known: cache, class_prefix, classes"),
        ("127.0.0.1:7400", {**options, "class_prefix": "a b"}, r"OPTIONS\['class_prefix'\]: 'a b' has the byte 0x20"),
        ("127.0.0.1:7400", {**options, "class_prefix": 7}, r"OPTIONS\['class_prefix'\]: 7 is an int; it must be a str"),
        ("127.0.0.1:7400", {**options, "classes": 7}, r"OPTIONS\['classes'\] is 7"),
    ):
        with pytest.raises(ConfigError, match=says):
            GrapevineCache(location, {"OPTIONS": given})
    cache = make()
    for key in ("a b", "x" * 251, "a\x7f"):
        with pytest.raises(InvalidCacheKey):
            cache.get(key)
    with pytest.raises(TypeError, match="a function, cannot be pickled"):
        cache.set("k", lambda: 1)
