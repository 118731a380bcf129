"""Parts that need no sidecar: the gate, sessions, endpoints, settings, flights, codecs, caches."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

import pytest

from grapevine_client import (
    AsyncClient,
    AsyncRedisCache,
    Client,
    ConfigError,
    InlineCache,
    InvalidRequest,
    MemoryCache,
    PymemcacheCache,
    RedisCache,
    Session,
    SessionError,
    Settings,
    _link,
    _trouble,
    connect_async_cache,
    connect_cache,
)
from grapevine_client._flights import Flights
from grapevine_client._io import AsyncioIo, BlockingIo, run
from grapevine_client._link import Gated, Link, parse_endpoint
from grapevine_client.errors import NoAnswer, Unreachable
from grapevine_client.gate import Gate
from pykit import eventually

LEAST_S, MOST_S, PROBE_S = 0.01, 1.0, 0.05


def test_a_closed_gate_lets_one_probe_through_and_opens_on_its_success() -> None:
    gate, now = Gate(LEAST_S, MOST_S), 100.0
    assert gate.failure(now)
    left = gate.admit(PROBE_S, now)
    assert LEAST_S / 2 <= left <= LEAST_S
    later = now + left + 1e-6
    assert gate.admit(PROBE_S, later) == 0
    assert gate.admit(PROBE_S, later) > 0
    assert gate.success()
    assert gate.is_open
    assert gate.admit(PROBE_S, later) == gate.admit(PROBE_S, later) == 0


def test_failures_of_one_moment_count_once_and_probes_double_up_to_the_bound() -> None:
    gate, now = Gate(LEAST_S, MOST_S), 100.0
    assert gate.failure(now)
    assert not any(gate.failure(now) for _ in range(100))
    assert gate.admit(PROBE_S, now) <= LEAST_S
    longest = 0.0
    for _ in range(30):
        while left := gate.admit(PROBE_S, now):
            now += left + 1e-6
            longest = max(longest, left)
        gate.failure(now)
    assert MOST_S / 2 <= longest <= MOST_S


def test_a_probe_that_never_reports_lapses() -> None:
    gate, now = Gate(LEAST_S, MOST_S), 100.0
    gate.failure(now)
    assert gate.admit(PROBE_S, now + LEAST_S) == 0
    assert gate.admit(PROBE_S, now + LEAST_S + PROBE_S) == 0


def test_some_slow_calls_in_a_row_close_the_gate_and_an_answer_between_them_resets() -> None:
    gate, now = Gate(LEAST_S, MOST_S), 100.0
    for _ in range(5):
        assert not gate.slow(now)
        assert not gate.slow(now)
        gate.success()
    gate.slow(now)
    gate.slow(now)
    assert gate.slow(now)
    assert not gate.is_open


def token(issuer: int, sequence: int) -> bytes:
    return b"\x01" + bytes([issuer]) * 16 + sequence.to_bytes(8, "big")


def test_g5_a_session_keeps_one_token_per_issuer_the_latest() -> None:
    session = Session()
    assert not session
    for sequence in (5, 300, 7):
        session.add(token(1, sequence))
    assert session.tokens == (token(1, 300),)
    session.add(token(2, 1))
    session.add(b"of a later format")
    with pytest.raises(SessionError, match="3 incarnations already"):
        session.add(token(3, 1))
    session.add(token(2, 9))
    assert session.tokens[1] == token(2, 9)


def test_a_sessions_text_gives_it_back_and_malformed_ones_are_refused() -> None:
    session = Session()
    session.add(token(0xAB, 0x0102))
    session.add(token(2, 1))
    assert str(session)[:51] == "01abababababababababababababababab0000000000000102."
    assert Session.parse(str(session)) == session
    assert Session.parse(str(session).upper()) == session
    assert Session.parse("") == Session()
    for text in (".", "0", "0g", "zz", "01..02", "é", "00" * 65, "01.02.03.04", "01 02", " 01"):
        with pytest.raises(SessionError):
            Session.parse(text)
    with pytest.raises(SessionError, match="0 bytes; it must have 1 to 64"):
        Session().add(b"")
    with pytest.raises(InvalidRequest, match=r"wait_s: 61 s is outside 0.001 s to 60 s"):
        Session(wait_s=61)


def test_endpoints_are_read_in_their_forms() -> None:
    for value, target in (
        ("unix:/run/g.sock", "unix:/run/g.sock"),
        ("unix:///run/g.sock", "unix:/run/g.sock"),
        ("http://127.0.0.1:7400", "127.0.0.1:7400"),
        ("127.0.0.1:7400", "127.0.0.1:7400"),
        ("sidecar-2.example:7400", "sidecar-2.example:7400"),
        ("[::1]:7400", "[::1]:7400"),
    ):
        assert parse_endpoint(value) == target


@pytest.mark.parametrize(
    "value",
    [
        "",
        "unix:",
        "unix:relative.sock",
        "https://127.0.0.1:7400",
        "ftp://127.0.0.1:7400",
        "127.0.0.1",
        "http://127.0.0.1",
        "http://127.0.0.1:7400/path",
        "http://:7400",
        "a b:1",
        "127.0.0.1:99999",
        None,
        7400,
    ],
)
def test_malformed_endpoints_are_named_with_what_is_wrong(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        Client(value)  # type: ignore[arg-type]
    assert repr(value) in str(caught.value)
    with pytest.raises(ConfigError, match="endpoint"):
        Client("127.0.0.1:7400", fail_over_to=["nonsense"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"resolve_deadline_s": 0}, "resolve_deadline_s is 0; it must be above zero"),
        ({"commit_deadline_s": float("nan")}, "commit_deadline_s is nan; it must be above zero"),
        ({"call_deadline_s": "1"}, "call_deadline_s is '1'; it must be a number of seconds"),
        ({"invalidate_timeout_s": 61}, "invalidate_timeout_s is 61; it must be 0.001 to 60"),
        ({"resolve_batch_max": 1_001}, "resolve_batch_max is 1001; it must be 1 to 1000"),
        ({"rpcs_in_flight_max": 0}, "rpcs_in_flight_max is 0; it must be 1 to 64"),
        ({"rpcs_in_flight_max": True}, "rpcs_in_flight_max is True; it must be a whole number"),
        ({"report_every_s": 0}, "report_every_s is 0; it must be above zero"),
        ({"report_every_s": "never"}, "report_every_s is 'never'; it must be a number of seconds"),
        ({"resolve_deadline_s": None}, "resolve_deadline_s is None; it must be a number of seconds"),
        ({"backoff_min_s": 2}, "backoff_max_s is 1.0; it must be at least backoff_min_s"),
    ],
)
def test_wrong_settings_are_named_with_their_range(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**changes)  # type: ignore[arg-type]
    assert str(caught.value) == says


def test_what_is_no_cache_or_no_codec_is_refused_by_name() -> None:
    import redis

    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigError, match="codec is 'json'; it must be JsonCodec"):
            kind("127.0.0.1:7400", codec="json")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cache is a dict"):
        Client("127.0.0.1:7400", cache={})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cache is a MemoryCache; it must be an AsyncCache"):
        AsyncClient("127.0.0.1:7400", cache=MemoryCache())  # type: ignore[arg-type]
    AsyncClient("127.0.0.1:7400", cache=InlineCache(MemoryCache()))
    for url in ("memcached://", "memcached://host", "memcached://host:70000", "http://host:1", "nonsense"):
        for connect in (connect_cache, connect_async_cache):
            with pytest.raises(ConfigError) as caught:
                connect(url)
            assert repr(url) in str(caught.value)
    with pytest.raises(ConfigError, match="decode_responses"):
        RedisCache(redis.Redis(decode_responses=True))
    with pytest.raises(ConfigError, match="decode_responses"):
        AsyncRedisCache(redis.asyncio.Redis(decode_responses=True))


@pytest.mark.parametrize("connect", [connect_cache, connect_async_cache])
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://host:1", "the scheme is not known; write memcached://host:port, redis://host:port/db"),
        ("memcached://[::1", "the host or the port is malformed"),
        ("memcached://host:port", "the host or the port is malformed"),
        ("memcached://a:1,b:1", "the host or the port is malformed"),
        ("memcached://host:99999", "the host or the port is malformed; a port is a number up to 65535"),
        ("memcached://host", "there must be one host and its port"),
        ("memcached://host:1/0", "there must be one host and its port"),
        ("memcached://host:1?placement=all", "option 'placement' is not known here; known: timeout"),
        ("memcached://host:1?timeout=5", "timeout is '5'; it must be 1ms to 1h with its unit, 250ms or 2s say"),
        ("memcached://host:1?timeout=0s", "timeout is '0s'; it must be 1ms to 1h"),
        ("memcached://host:1?timeout=2h", "timeout is '2h'; it must be 1ms to 1h"),
        ("memcached://host:1?timeout", "option 'timeout' has no value"),
        ("memcached://host:1?timeout=1s&timeout=2s", "option 'timeout' is given twice"),
        ("memory://?max_entries=5", "it takes no options; MemoryCache(entries_max=...) does"),
        ("redis://[::1", "the host or the port is malformed"),
        ("redis://host:port/0", "the host or the port is malformed"),
        ("redis://host:70000/0", "the host or the port is malformed"),
        ("redis://host:1/first", "the database 'first' must be a number, 0 or more"),
        ("redis://host:1/-1", "the database '-1' must be a number, 0 or more"),
        ("redis://host:1/0#1", "what stands behind # has no meaning"),
        ("redis://host:1/0?timeout=5", "timeout is '5'; it must be 1ms to 1h"),
        ("redis://host:1/0?db=first", "redis-py refuses an option: Invalid value for "),
        (
            "redis://host:1/0?max_value=1MiB",
            "option 'max_value' is not known to redis-py; known: timeout, and those of its",
        ),
        ("redis://host:1/0?protocol=", "option 'protocol' has no value"),
        ("rediss://host:1/0?colour=red", "known: timeout, and those of its connections"),
        ("unix://relative.sock", "the path of a Unix socket must be absolute"),
        ("unix:///run/redis.sock?colour=red", "option 'colour' is not known to redis-py; known: timeout"),
        (b"redis://:secret@host", "cache is a bytes; it must be a URL"),
    ],
)
def test_a_wrong_cache_url_is_named_with_what_is_wrong_and_what_is_allowed(
    connect: Callable[[Any], object], url: Any, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(url)
    assert says in str(caught.value)
    if isinstance(url, str):
        assert str(caught.value).startswith(f"cache {url!r}: ")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:port/0", "redis://***@host:port/0"),
        # What should be percent-encoded and is not.
        ("redis://:secret/secret@host:1/0", "redis://***@host:1/0"),
        ("redis://:1/secret@host:1/0", "redis://***@host:1/0"),
        ("redis://:1?secret@host:1/0", "redis://***@host:1/0"),
        ("redis://:1#secret@host:1/0", "redis://***@host:1/0"),
        ("redis://:secret@secret:@host:1/zero", "redis://***@host:1/zero"),
        ("redis://user:secret\N{DOUBLE QUESTION MARK}@host:1", "redis://***@host:1"),
        ("redis://host:1/0?password=secret&colour=red", "redis://host:1/0?password=***&colour=red"),
        ("unix:///run/redis.sock?Pass=secret@secret", "unix://***"),
        ("memcached://user:secret@host:1", "memcached://***@host:1"),
        ("user:secret@host:1", "***@host:1"),
    ],
)
def test_what_is_said_of_a_wrong_cache_url_holds_no_password(url: str, shown: str) -> None:
    for connect in (connect_cache, connect_async_cache):
        with pytest.raises(ConfigError) as caught:
            connect(url)
        assert str(caught.value).startswith(f"cache {shown!r}: ")
        assert "secret" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ConfigError) as caught:
        connect_cache("x" * 1_000)
    assert len(str(caught.value)) < 300


def test_cache_urls_carry_a_timeout_and_what_redis_py_knows() -> None:
    for text, seconds in (("", 1.0), ("?timeout=250ms", 0.25), ("?timeout=2s", 2.0), ("?timeout=1h", 3_600.0)):
        memcached = connect_cache(f"memcached://host:1{text}")
        assert isinstance(memcached, PymemcacheCache)
        assert (memcached._held.timeout, memcached._held.connect_timeout) == (seconds, seconds)
        for connect in (connect_cache, connect_async_cache):
            for place in (
                "redis://host",
                "redis://user:p%40ss@[::1]:1/0",
                "rediss://host:1/",
                "unix:///run/redis.sock",
            ):
                options = connect(f"{place}{text}")._client.connection_pool.connection_kwargs
                assert (options["socket_timeout"], options["socket_connect_timeout"]) == (seconds, seconds)
    options = connect_cache(
        "redis://u:p%40ss@host:1/3?client_name=a%26b&timeout=2s&health_check_interval=30&socket_timeout=4"
    )._client.connection_pool.connection_kwargs
    assert (options["password"], options["db"], options["client_name"]) == ("p@ss", 3, "a&b")
    assert (options["health_check_interval"], options["socket_timeout"], options["socket_connect_timeout"]) == (
        30,
        4,
        2,
    )


def test_a_cache_in_memory_keeps_what_was_used_last() -> None:
    cache = MemoryCache(entries_max=2)
    cache.set("a", b"1", 60_000)
    cache.set("b", b"2", 60_000)
    assert cache.get("a") == b"1"
    cache.set("c", b"3", 60_000)
    assert cache.get_many(["a", "b", "c"]) == {"a": b"1", "c": b"3"}
    assert not cache.add("a", b"4", 60_000)
    assert cache.add("d", b"4", 60_000)


def test_a_leader_that_goes_without_a_result_passes_its_turn_on() -> None:
    flights: Flights[str] = Flights(BlockingIo())
    first = flights.sit("k")
    assert run(first.turn()) is None
    got: list[object] = []

    def wait() -> None:
        seat = flights.sit("k")
        got.append(run(seat.turn()))
        got.append(seat.after_another)
        seat.publish("v")
        seat.leave()

    before = flights.finished("k")
    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(lambda: flights._flights["k"].waiters, what="the second one waits")
    first.leave()
    waiting.join(10)
    assert got == [None, True]
    assert len(flights) == 0
    assert flights.finished("k") != before


def test_a_cancelled_leader_and_a_cancelled_waiter_hold_nobody_up() -> None:
    async def test() -> None:
        flights: Flights[str] = Flights(AsyncioIo())
        order: list[str] = []

        async def take_part(name: str, work: asyncio.Event, publish: bool) -> str | None:
            seat = flights.sit("k")
            try:
                result = await seat.turn()
                if result is not None:
                    return result
                order.append(name)
                await work.wait()
                if publish:
                    seat.publish(name)
                return name
            finally:
                seat.leave()

        never, now = asyncio.Event(), asyncio.Event()
        now.set()
        leader = asyncio.create_task(take_part("leader", never, False))
        await asyncio.sleep(0)
        second = asyncio.create_task(take_part("second", never, False))
        third = asyncio.create_task(take_part("third", now, True))
        fourth = asyncio.create_task(take_part("fourth", never, True))
        for _ in range(5):
            await asyncio.sleep(0)
        # The turn is on its way to the second one, which is cancelled before it takes it.
        leader.cancel()
        await asyncio.sleep(0)
        second.cancel()
        assert await asyncio.wait_for(third, 10) == "third"
        assert await asyncio.wait_for(fourth, 10) == "third"
        assert order[0] == "leader"
        assert len(flights) == 0
        await asyncio.gather(leader, second, return_exceptions=True)

    asyncio.run(test())


class Stream:
    """Gives what it holds, or nothing in time."""

    def __init__(self, *messages: str | None) -> None:
        self.messages = list(messages)

    async def read(self, timeout_s: float | None = None) -> str | None:
        if not self.messages:
            raise TimeoutError
        return self.messages.pop(0)

    def cancel(self) -> None: ...


def test_what_becomes_of_streams_closes_and_opens_the_gate() -> None:
    link = Link("127.0.0.1:1", BlockingIo(), Settings())
    assert link.gate.is_open
    for _ in range(3):
        with pytest.raises(NoAnswer, match="did not answer within 250 ms"):
            run(link.read(Stream(), 0.25))
    assert not link.gate.is_open
    # The end of a stream says nothing of the sidecar.
    assert run(link.read(Stream(None), None)) is None
    assert not link.gate.is_open
    assert run(link.read(Stream("message"), None)) == "message"
    assert link.gate.is_open


def test_a_gate_that_opens_and_closes_is_told_at_most_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "grapevine_client")
    now = 1_000.0
    clock = types.SimpleNamespace(monotonic=lambda: now)
    for module in (_link, _trouble):
        monkeypatch.setattr(module, "time", clock)
    link = Link("127.0.0.1:1", BlockingIo(), Settings())
    gone = Unreachable(link.name, "is unreachable")

    def told(level: int) -> list[str]:
        found = [each.getMessage() for each in caplog.records if each.levelno == level]
        caplog.clear()
        return found

    warning = "sidecar 127.0.0.1:1 is unreachable: leaving it alone for a while"
    # Every second it goes and comes back, for a minute.
    link.note(gone)
    assert told(logging.WARNING) == [warning]
    link.answered()
    assert told(logging.INFO) == ["sidecar 127.0.0.1:1 answers again"]
    for _ in range(59):
        now += 1
        link.note(gone)
        assert not link.gate.is_open
        link.answered()
        assert [each.levelno for each in caplog.records] == [logging.DEBUG]
        assert told(logging.DEBUG) == [warning]
    # Of one that stays away the log hears when the minute is over, from the probe that fails then.
    link.note(gone)
    assert told(logging.WARNING) == []
    now += 1
    link.admit(1.0, Gated.YES)
    link.note(gone)
    assert told(logging.WARNING) == [warning]
    now += 3_600
    link.admit(1.0, Gated.YES)
    link.note(gone)
    assert told(logging.WARNING) == []
    link.answered()
    assert told(logging.INFO) == ["sidecar 127.0.0.1:1 answers again"]
    # One call's word of the trouble may come behind another one's answer; the next trouble is told all the same.
    now += 60
    failed = link._absence.failed

    def late(message: str, *arguments: object) -> None:
        link.answered()
        failed(message, *arguments)

    monkeypatch.setattr(link._absence, "failed", late)
    link.note(gone)
    monkeypatch.setattr(link._absence, "failed", failed)
    assert told(logging.WARNING) == [warning]
    assert link.gate.is_open
    link.answered()
    now += 60
    link.note(gone)
    assert told(logging.WARNING) == [warning]


def test_all_classes_that_are_wrong_are_told_at_once_and_at_most_twenty() -> None:
    client = Client("127.0.0.1:1")
    classes = ["cart/1", "a b", "cart/2", "", "a//b", 7, "c" * 201]
    for call in (client.invalidate, client.begin_write, client.watch, lambda each: client.resolve("a", each)):
        with pytest.raises(InvalidRequest) as caught:
            call(classes)
        assert [each.field for each in caught.value.violations] == [f"classes[{index}]" for index in (1, 3, 4, 5, 6)]
        for says in (
            "'a b' has the byte 0x20",
            "classes[3]: it is empty",
            "'a//b' has an empty segment",
            "7 is an int",
        ):
            assert says in str(caught.value)
    with pytest.raises(InvalidRequest) as caught:
        client.invalidate(["fine", *["a b"] * 21])
    assert [each.field for each in caught.value.violations] == [f"classes[{index}]" for index in range(1, 21)]
    assert "21 classes are wrong, of which the first 20 are told: classes[1]: 'a b' has" in str(caught.value)
    with pytest.raises(InvalidRequest, match=r"^invalid request: classes\[0\]: 'a b' has the byte 0x20 at position 1;"):
        client.invalidate(["a b"])


@pytest.mark.parametrize(
    ("classes", "why"),
    [
        ("no_such_module.classes_of", "No module named 'no_such_module'"),
        ("json.no_such_function", 'Module "json" does not define a "no_such_function" attribute'),
        ("classes_of", "classes_of doesn't look like a module path"),
        (".caching.classes_of", "the 'package' argument is required"),
        ("", "doesn't look like a module path"),
    ],
)
def test_djangos_setting_of_classes_is_named_when_it_cannot_be_imported(classes: str, why: str) -> None:
    from grapevine_client.contrib.django import GrapevineCache

    with pytest.raises(ConfigError) as caught:
        GrapevineCache("127.0.0.1:7400", {"OPTIONS": {"cache": "memory://", "classes": classes}})
    assert str(caught.value).startswith(f"OPTIONS['classes'] is {classes!r}, which cannot be imported: ")
    assert why in str(caught.value)
    assert "it must be a function or its dotted path, 'shop.caching.classes_of' say" in str(caught.value)
