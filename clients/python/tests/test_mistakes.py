"""What a program says when it was set up wrongly: a port that is not the applications', a cache that is not there, an extra that is
not installed, a loader of the wrong kind. Reads go on all the same (G7), so the log has to tell."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cluster import Cluster
from grapevine_client import (
    AsyncClient,
    BypassReason,
    Client,
    ConfigError,
    GrapevineError,
    How,
    InvalidRequest,
    MemoryCache,
    Refused,
    Settings,
    Unreachable,
    _fence,
    _trouble,
    cached,
    connect_async_cache,
    connect_cache,
    depends_on,
)
from grapevine_client._trouble import Series

Clients = Callable[..., Client]
PATIENT = Settings(resolve_deadline_s=5.0)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def infos(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.INFO]


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "grapevine_client")


def test_of_a_series_the_first_is_told_and_after_a_success_the_next_ones_first() -> None:
    series, now = Series(distance_s=60), 1_000.0
    assert series.failure(now)
    # However long it lasts.
    assert not any(series.failure(now + more) for more in (0, 1, 59, 61, 10_000))
    assert series.success()
    assert not series.success()
    assert series.failure(now + 10_000)


def test_what_comes_and_goes_is_told_once_in_a_while_and_in_the_end_if_it_lasts() -> None:
    series, now = Series(distance_s=60), 1_000.0
    told = []
    for second in range(180):
        if series.failure(now + second):
            told.append(second)
        series.success()
    assert told == [0, 60, 120]
    # It lasts from the 179th second on.
    assert not series.failure(now + 179)
    assert series.failure(now + 180)


def test_g7_reads_at_the_peers_port_are_bypassed_and_the_log_says_so_once(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    peers = cluster[0].peer_tcp
    with Client(peers, cache="memory://", settings=PATIENT) as client:
        for _ in range(5):
            read = client.get_or_fill_outcome("a", ["cart/1"], lambda: 7)
            assert (read.value, read.how, read.bypass_reason) == (7, How.BYPASSED, BypassReason.REFUSED)
    (warning,) = warnings(caplog)
    assert warning.startswith("a look-up was refused, and reads go to the source")
    assert peers in warning
    assert "is this its address for applications?" in warning


def test_g7_refusals_are_told_again_once_look_ups_were_answered(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trouble, "_DISTANCE_S", 0.0)
    with Client(cluster[0].tcp, cache="memory://", settings=PATIENT) as client:
        client.wait_until_ready()
        own = client._base._calls.own
        with Client(cluster[0].peer_tcp, settings=PATIENT) as elsewhere:
            peers = elsewhere._base._calls.own
            for link, told in ((own, 0), (peers, 1), (peers, 1), (own, 1), (own, 1), (peers, 2)):
                client._base._calls.own = link
                client.get_or_fill("a", ["cart/1"], lambda: 7)
                assert len(warnings(caplog)) == told
        client._base._calls.own = own
    assert infos(caplog) == ["look-ups are no longer refused"]


def test_g7_reads_of_tasks_at_the_peers_port_are_told_once(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    async def load() -> int:
        return 7

    async def test() -> None:
        async with AsyncClient(cluster[0].peer_tcp, cache="memory://", settings=PATIENT) as client:
            await asyncio.gather(*(client.get_or_fill(f"a::{each}", ["cart/1"], load) for each in range(20)))
            assert client.stats().bypass_refused == 20

    asyncio.run(asyncio.wait_for(test(), 60))
    assert len(warnings(caplog)) == 1


def test_a_cache_that_is_not_there_is_told_once(clients: Clients, n: int, caplog: pytest.LogCaptureFixture) -> None:
    # Nobody listens there.
    client = clients(0, "memcached://127.0.0.1:1")
    for _ in range(3):
        assert client.get_or_fill_outcome(f"a::{n}", [f"cart/{n}"], lambda: 7).how is How.FILLED
    (warning,) = warnings(caplog)
    assert warning.startswith("the cache cannot be read")
    assert "refused" in warning.lower()
    stats = client.stats()
    assert (stats.cache_get_errors, stats.cache_set_errors) == (3, 3)


class Moody(MemoryCache):
    """Fails when it is told to."""

    read_fails = write_fails = False

    def get(self, key: str) -> bytes | None:
        if self.read_fails:
            raise OSError("no reads today")
        return super().get(key)

    def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        if self.write_fails:
            raise OSError("no writes today")
        super().set(key, value, ttl_ms)


def test_a_cache_is_told_again_once_it_had_worked(
    clients: Clients, n: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trouble, "_DISTANCE_S", 0.0)
    cache = Moody()
    client = clients(0, cache)

    def read(address: int, reads: bool, writes: bool) -> None:
        cache.read_fails, cache.write_fails = reads, writes
        assert client.get_or_fill(f"a::{n}::{address}", [f"cart/{n}"], lambda: 7) == 7

    read(1, True, True)
    read(2, True, True)
    read(3, False, True)
    read(4, False, True)
    read(5, False, False)
    read(6, True, False)
    read(7, False, True)
    told = warnings(caplog)
    # Which value, and how large it was as it lay.
    assert f"does not store the value at 'a::{n}::3' (" in told[1]
    assert " bytes), which the next reader computes again: " in told[1]
    assert [each.rpartition(": ")[2] for each in told] == [
        "no reads today",
        "no writes today",
        "no reads today",
        "no writes today",
    ]
    assert infos(caplog) == [
        "the cache can be read again",
        "the cache stores values again",
        "the cache can be read again",
    ]


class Silent(MemoryCache):
    """Fails without a word, as sockets do that take too long."""

    def get(self, key: str) -> bytes | None:
        raise TimeoutError

    set = get  # type: ignore[assignment]


def test_a_cache_that_fails_without_a_word_is_told_by_its_errors_name(
    clients: Clients, n: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert clients(0, Silent()).get_or_fill(f"a::{n}", [f"cart/{n}"], lambda: 7) == 7
    (warning,) = warnings(caplog)
    assert warning == "the cache cannot be read, and the value counts as missing: TimeoutError()"


def test_django_at_the_peers_port_misses_and_the_log_says_so_once(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    from grapevine_client.contrib.django import GrapevineCache

    cache = GrapevineCache(cluster[0].peer_tcp, {"OPTIONS": {"cache": "memory://"}})
    try:
        assert [cache.get("k") for _ in range(3)] == [None] * 3
        assert cache.grapevine.stats().bypass_refused == 3
        with pytest.raises(Refused):
            cache.delete("k")
    finally:
        cache.grapevine.close()
    (warning,) = warnings(caplog)
    assert "is this its address for applications?" in warning


def test_who_waits_until_a_peers_port_is_ready_hears_at_once_that_it_never_will(cluster: Cluster) -> None:
    failed: list[BaseException] = []

    def wait() -> None:
        with Client(cluster[0].peer_tcp) as client:
            try:
                # Only a bound on hanging: what would be waited for is far beyond the bound below.
                client.wait_until_ready(timeout_s=600)
            except GrapevineError as error:
                failed.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(60)
    assert not waiting.is_alive()
    (error,) = failed
    assert isinstance(error, Refused)
    assert "is this its address for applications?" in str(error)


def test_who_waits_for_a_sidecar_that_is_not_there_yet_goes_on_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client("127.0.0.1:1") as client:
        asked: list[object] = []

        async def status() -> object:
            asked.append(None)
            if len(asked) < 3:
                raise Unreachable("127.0.0.1:1", "is unreachable")
            return "is there"

        monkeypatch.setattr(client._base._calls, "status", status)
        assert str(client.wait_until_ready(timeout_s=60)) == "is there"
    assert len(asked) == 3


def test_g1_an_invalidation_or_a_write_at_the_peers_port_is_refused(cluster: Cluster) -> None:
    with Client(cluster[0].peer_tcp, fail_over_to=[cluster[1].tcp]) as client:
        for call in (client.begin_write(["cart/1"]).begin, lambda: client.invalidate(["cart/1"])):
            with pytest.raises(Refused, match="is this its address for applications") as caught:
                call()
            assert (caught.value.code, caught.value.may_have_had_effect) == ("UNIMPLEMENTED", False)


@pytest.mark.parametrize(
    ("connect", "url", "module", "extra"),
    [
        (connect_cache, "memcached://127.0.0.1:1", "pymemcache", "memcached"),
        (connect_cache, "redis://127.0.0.1:1/0", "redis", "redis"),
        (connect_async_cache, "memcached://127.0.0.1:1", "pymemcache", "memcached"),
        (connect_async_cache, "redis://127.0.0.1:1/0", "redis", "redis"),
    ],
)
def test_an_extra_that_is_not_installed_is_named(
    connect: Callable[[str], object], url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert importlib.util.find_spec(module) is not None
    for name in [each for each in sys.modules if each == module or each.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    # So Python finds none.
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{url}.*{module}.*grapevine-client\[{extra}\]"):
        connect(url)


# One that is thrown away unawaited is a warning of Python's.
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_loader_that_is_a_coroutine_function_is_named(clients: Clients, n: int) -> None:
    async def load(*_: object) -> Any:
        return [7]

    client = clients()
    says = "loader: it answered a coroutine; a Client's must be a plain function"
    calls: tuple[Callable[[], object], ...] = (
        lambda: client.get_or_fill(f"a::{n}", [f"cart/{n}"], load),
        lambda: client.get_or_fill_page(f"paged::{n}", [f"paged/{n}"], 0, 5, load),  # type: ignore[arg-type]
        # What a lambda hides.
        cached(classes=[f"cart/{n}"], address=f"b::{n}", client=client)(lambda: load()),
    )
    for call in calls:
        with pytest.raises(InvalidRequest, match=says):
            call()
    assert client.stats().stored == 0


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        ("text", "loader: it answered 'text', a str; it must be a list of the page's items"),
        (b"text", "loader: it answered b'text', a bytes; it must be a list of the page's items"),
        ({"a": 1}, "loader: it answered {'a': 1}, a dict; it must be a list of the page's items"),
        (None, "loader: it answered None, a NoneType; it must be a list of the page's items"),
        (5, "loader: it answered 5, an int; it must be a list of the page's items"),
    ],
)
def test_a_pages_loader_that_gives_no_list_is_named(
    clients: Clients, cluster: Cluster, n: int, gives: Any, says: str
) -> None:
    client = clients()

    async def load(*_: int) -> Any:
        return gives

    async def asynchronous() -> None:
        async with AsyncClient(cluster[0].tcp, cache="memory://", settings=PATIENT) as client:
            await client.get_or_fill_page(f"paged::{n}", [f"paged/{n}"], 0, 5, load)

    for call in (
        lambda: client.get_or_fill_page(f"paged::{n}", [f"paged/{n}"], 0, 5, lambda *_: gives),
        lambda: asyncio.run(asynchronous()),
    ):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert says in str(caught.value)
    assert client.stats().stored == 0
    # Whatever can be gone through in order will do.
    read = client.get_or_fill_page(f"paged::{n}", [f"paged/{n}"], 0, 5, lambda *_: (each for each in (1, 2)))
    assert (read.items, read.stored) == ([1, 2], 1)


def test_depends_on_where_nothing_is_filled_says_so(
    clients: Clients, n: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What other tests did is not what was told here.
    monkeypatch.setattr(_fence, "_lost_dependencies", Series())
    client = clients()
    said = f"depends_on('prices/{n}') has no effect"

    def load(work: Callable[[], None]) -> int:
        work()
        return 7

    def in_a_thread() -> None:
        # It has a context of its own, and so knows of no fill.
        thread = threading.Thread(target=depends_on, args=(f"prices/{n}",))
        thread.start()
        thread.join()

    assert client.get_or_fill(f"a::{n}", [f"cart/{n}"], lambda: load(lambda: depends_on(f"prices/{n}"))) == 7
    assert warnings(caplog) == []
    assert client.get_or_fill(f"b::{n}", [f"cart/{n}"], lambda: load(in_a_thread)) == 7
    (warning,) = warnings(caplog)
    assert warning.startswith(said)


def test_what_is_used_after_its_end_says_so(cluster: Cluster) -> None:
    client = Client(cluster[0].tcp, cache="memory://")
    client.close()
    work: tuple[Callable[[], Any], ...] = (
        client.status,
        lambda: client.get_or_fill("a", ["cart/1"], lambda: 7),
        lambda: client.invalidate(["cart/1"]),
    )
    for call in work:
        with pytest.raises(GrapevineError, match=f"the client of {cluster[0].tcp} is closed"):
            call()
