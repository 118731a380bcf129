"""Cached reads against real sidecars, memcached and Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from cluster import Cluster
from grapevine_client import (
    BytesCodec,
    Client,
    CodecError,
    ConfigError,
    Freshness,
    How,
    InvalidRequest,
    MemoryCache,
    PickleCodec,
    Receipt,
    Session,
    Settings,
    Strategy,
    WatchBump,
    WatchStarted,
    connect_cache,
    current_session,
    depends_on,
    read_primary,
    use_session,
)
from grapevine_client.formats import MAGIC, Envelope
from pykit import eventually

Clients = Callable[..., Client]
STRATEGIES = ["versioned", "registered", "bucketed"]


def never() -> Any:
    raise AssertionError("the loader ran")


@pytest.mark.parametrize("strategy", [*STRATEGIES, "lapsing"])
def test_the_first_read_fills_and_the_second_hits(clients: Clients, cache_url: str, n: int, strategy: str) -> None:
    address, classes = f"{strategy}::{n}", [f"{strategy}/{n}"]
    first, other = clients(0, cache_url), clients(1, cache_url)
    read = first.get_or_fill_outcome(address, classes, lambda: {"items": [1, "zwölf", None]})
    assert (read.value, read.how, read.stored) == ({"items": [1, "zwölf", None]}, How.FILLED, True)
    for client in (first, other):
        again = client.get_or_fill_outcome(address, classes, never)
        assert (again.value, again.how, again.stored) == (read.value, How.HIT, False)
    stats = first.stats()
    assert (stats.hits, stats.misses, stats.fills, stats.stored, stats.bypasses) == (1, 1, 1, 1, 0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_g3_a_bumped_value_is_not_served_at_any_sidecar(
    clients: Clients, cache_url: str, n: int, strategy: str
) -> None:
    address, classes = f"{strategy}::{n}", [f"{strategy}/{n}/below"]
    readers = [clients(node, cache_url) for node in range(3)]
    for round_, bumped in enumerate([classes[0], f"{strategy}/{n}", classes[0]]):
        value = f"v{round_}"
        assert readers[0].get_or_fill(address, classes, lambda value=value: value) == value
        outcome = readers[2].invalidate([bumped], receipt=Receipt.ALL)
        assert outcome.receipt_satisfied
        for position, reader in enumerate(readers):
            read = reader.get_or_fill_outcome(address, classes, lambda value=value: value + "'")
            assert (read.value, read.how) == (value + "'", How.FILLED if position == 0 else How.HIT)
        readers[1].invalidate([bumped], receipt=Receipt.ALL)


def test_a_bump_of_a_neighbour_costs_nothing(clients: Clients, cache_url: str, n: int) -> None:
    client = clients(0, cache_url)
    client.get_or_fill(f"a::{n}", [f"cart/{n}"], lambda: 1)
    client.invalidate([f"cart/{n}x", f"cart/{n}/below"])
    assert client.get_or_fill_outcome(f"a::{n}", [f"cart/{n}"], never).how is How.HIT


def test_a_value_has_the_form_that_the_document_says(clients: Clients, n: int) -> None:
    """At a versioned address it stands as it is, unless it looks like an envelope; elsewhere in an envelope."""
    cache = MemoryCache()
    client = clients(0, cache, codec=BytesCodec())
    for strategy, value, wrapped in (
        ("versioned", b"two apples", False),
        ("versioned", b"", False),
        ("versioned", b"\xc7\x00", True),
        ("registered", b"two apples", True),
        ("bucketed", b"", True),
        ("lapsing", b"x", True),
    ):
        address, classes = f"{strategy}::{n}:{value.hex()}", [f"{strategy}/{n}"]
        assert client.get_or_fill(address, classes, lambda value=value: value) == value
        resolution = client.resolve(address, classes)
        stored = cache.get(resolution.address)
        assert stored is not None
        if wrapped:
            assert Envelope.parse(stored) == Envelope(resolution.token, address, value)
        else:
            assert stored == value
        assert client.get_or_fill_outcome(address, classes, never).value == value
        assert resolution.strategy is Strategy(strategy if strategy != "lapsing" else "ttl")
        assert resolution.freshness is Freshness.FRESH


def test_g3_what_does_not_carry_the_token_or_the_address_is_a_miss(clients: Clients, n: int) -> None:
    cache = MemoryCache()
    client = clients(0, cache, codec=BytesCodec())
    address, classes = f"registered::{n}", [f"registered/{n}"]
    resolution = client.resolve(address, classes)
    good = Envelope(resolution.token, address, b"v")
    for stored in (
        b"",
        b"as it is",
        good.encode()[:12],
        Envelope(resolution.token ^ 1, address, b"v").encode(),
        Envelope(resolution.token, address + "x", b"v").encode(),
    ):
        before = client.stats().envelope_mismatch
        cache.set(resolution.address, stored, 60_000)
        assert client.get_or_fill_outcome(address, classes, lambda: b"new").how is How.FILLED
        assert client.stats().envelope_mismatch == before + 1
    cache.set(resolution.address, good.encode(), 60_000)
    assert client.get_or_fill_outcome(address, classes, never).value == b"v"


def test_addresses_that_share_a_bucket_do_not_serve_each_other(clients: Clients, cache_url: str, n: int) -> None:
    client = clients(0, cache_url)
    shared: dict[str, list[str]] = {}
    for number in range(9):
        address = f"b::{n}:{number}"
        shared.setdefault(client.resolve(address, [f"bucketed/{n}"]).address, []).append(address)
    one, other = next(addresses for addresses in shared.values() if len(addresses) > 1)[:2]
    assert client.get_or_fill(one, [f"bucketed/{n}"], lambda: 1) == 1
    assert client.get_or_fill_outcome(other, [f"bucketed/{n}"], lambda: 2).value == 2
    assert client.get_or_fill_outcome(one, [f"bucketed/{n}"], lambda: 1).how is How.FILLED


def test_g3_a_bump_of_a_dependency_makes_the_value_stale(clients: Clients, cache_url: str, n: int) -> None:
    for strategy in STRATEGIES:
        client = clients(0, cache_url)
        address, classes, price = f"{strategy}::{n}", [f"{strategy}/{n}"], f"prices/{n}"

        def load(price: str = price, own: str = classes[0]) -> int:
            # Named twice, and known already: each counts once.
            depends_on(price)
            depends_on(price)
            depends_on(own)
            return 7

        assert client.get_or_fill_outcome(address, classes, load).stored
        assert client.get_or_fill_outcome(address, classes, never).how is How.HIT
        clients(1).invalidate([price], receipt=Receipt.ALL)
        assert client.get_or_fill_outcome(address, classes, load).how is How.FILLED
        assert client.get_or_fill_outcome(address, classes, never).how is How.HIT


def test_g10_dependencies_that_cannot_be_kept_are_not_forgotten_but_not_stored(clients: Clients, n: int) -> None:
    client = clients()
    for names in (["a b"], [f"d/{number}" for number in range(16)], [""]):

        def load(names: list[str] = names) -> int:
            for name in names:
                depends_on(name)
            return 7

        read = client.get_or_fill_outcome(f"a::{n}", [f"cart/{n}"], load)
        assert (read.value, read.stored) == (7, False)
    assert client.stats().bad_dependencies == 3
    depends_on("outside/of/a/loader")


def test_a_value_under_ttl_is_served_until_its_ttl_whatever_is_bumped(clients: Clients, cache_url: str, n: int) -> None:
    client = clients(0, cache_url)
    address, classes = f"l::{n}", [f"lapsing/{n}"]
    client.get_or_fill(address, classes, lambda: "old")
    looked_up = time.monotonic()
    client.invalidate(classes, receipt=Receipt.ALL)
    served = 0

    def is_new() -> bool:
        nonlocal served
        asked = time.monotonic()
        value = client.get_or_fill(address, classes, lambda: "new")
        served += value == "old"
        # By the clock of who asks. The policy's TTL is 3 s.
        assert value == "new" or asked - looked_up < 3
        return value == "new"

    eventually(is_new, what="the value lapses")
    assert served > 0


def test_the_shorter_ttl_counts(clients: Clients, redis_url: str, n: int) -> None:
    import redis

    client = clients(0, redis_url)
    server = redis.Redis.from_url(redis_url)
    for given, most in ((0.9, 900), (1_000_000, 3_600_000), (None, 3_600_000)):
        address, classes = f"t::{n}:{given}", [f"cart/{n}"]
        client.get_or_fill(address, classes, lambda: 1, ttl_s=given)
        left = server.pttl(client.resolve(address, classes).address)
        assert 0 < left <= most
        assert given == 0.9 or left > 1_000_000
    server.close()


def test_a_ttl_that_the_cache_cannot_count_is_not_stored(clients: Clients, memcached_url: str, n: int) -> None:
    client = clients(0, memcached_url)
    read = client.get_or_fill_outcome(f"t::{n}", [f"cart/{n}"], lambda: 1, ttl_s=0.5)
    assert not read.stored
    assert client.stats().too_short_to_store == 1


def test_a_cache_that_fails_is_a_miss_and_never_an_error(clients: Clients, n: int) -> None:
    # Nobody listens there.
    client = clients(0, "memcached://127.0.0.1:1")
    for _ in range(2):
        read = client.get_or_fill_outcome(f"a::{n}", [f"cart/{n}"], lambda: 7)
        assert (read.value, read.how, read.stored) == (7, How.FILLED, False)
    stats = client.stats()
    assert (stats.cache_get_errors, stats.cache_set_errors, stats.misses, stats.bypasses) == (2, 2, 2, 0)


def test_an_error_of_the_loader_reaches_the_caller_and_is_not_stored(clients: Clients, n: int) -> None:
    client = clients()

    def fails() -> int:
        raise LookupError("no such cart")

    with pytest.raises(LookupError, match="no such cart"):
        client.get_or_fill(f"a::{n}", [f"cart/{n}"], fails)
    assert client.get_or_fill_outcome(f"a::{n}", [f"cart/{n}"], lambda: 7).how is How.FILLED
    assert client.stats().fill_errors == 1


def test_what_comes_back_has_been_through_the_codec_on_a_fill_as_on_a_hit(clients: Clients, n: int) -> None:
    client = clients()
    for _ in range(2):
        assert client.get_or_fill(f"a::{n}", [f"cart/{n}"], lambda: (1, {2: 3})) == [1, {"2": 3}]
    for _ in range(2):
        pickled = client.get_or_fill(f"p::{n}", [f"cart/{n}"], lambda: (1, {2}), codec=PickleCodec())
        assert pickled == (1, {2})
    with pytest.raises(CodecError, match=rf"the value of 'o::{n}', a object, cannot be written by the codec 'json'"):
        client.get_or_fill(f"o::{n}", [f"cart/{n}"], object)
    with pytest.raises(CodecError, match="a str is not bytes"):
        client.get_or_fill(f"o::{n}", [f"cart/{n}"], lambda: "text", codec=BytesCodec())


def test_what_the_codec_cannot_read_is_computed_anew(clients: Clients, n: int) -> None:
    client = clients()
    client.get_or_fill(f"a::{n}", [f"cart/{n}"], lambda: b"\xff no JSON", codec=BytesCodec())
    read = client.get_or_fill_outcome(f"a::{n}", [f"cart/{n}"], lambda: 7)
    assert (read.value, read.how, read.stored) == (7, How.FILLED, True)
    assert client.get_or_fill_outcome(f"a::{n}", [f"cart/{n}"], never).how is How.HIT
    assert client.stats().undecodable == 1


def test_slices_share_pages_and_follow_bumps(clients: Clients, cache_url: str, n: int) -> None:
    client = clients(0, cache_url)
    asked: list[tuple[int, int]] = []
    length = 47

    def load(offset: int, limit: int) -> list[int]:
        asked.append((offset, limit))
        return list(range(offset, min(offset + limit, length)))

    def read(offset: int, limit: int) -> Any:
        return client.get_or_fill_page(f"l::{n}", [f"paged/{n}"], offset, limit, load)

    page = read(35, 10)
    assert (page.items, page.how, page.pages, page.hits, page.stored) == (list(range(35, 45)), How.FILLED, 2, 0, 2)
    assert asked == [(20, 20), (40, 20)]
    page = read(20, 1_000)
    assert (page.items, page.how, page.hits) == (list(range(20, 47)), How.HIT, 2)
    assert read(60, 5).items == []
    length = 48
    client.invalidate([f"paged/{n}"])
    assert read(44, 10).items == [44, 45, 46, 47]
    with pytest.raises(InvalidRequest, match="paging"):
        client.get_or_fill_page(f"l::{n}", [f"cart/{n}"], 0, 10, load)


def test_g7_what_fills_read_may_lag(clients: Clients, cluster: Cluster, n: int) -> None:
    cache = MemoryCache()
    client = clients(0, cache)
    client.invalidate([f"lagging/{n}", f"lagging-primary/{n}"])
    read = client.get_or_fill_outcome(f"a::{n}", [f"lagging/{n}"], lambda: "of a replica")
    assert (read.value, read.how, read.stored) == ("of a replica", How.FILLED, False)
    assert client.stats().fills_of_lagging_source == 1
    read = client.get_or_fill_outcome(
        f"b::{n}", [f"lagging-primary/{n}"], lambda: "primary" if read_primary() else "replica"
    )
    assert (read.value, read.stored) == ("primary", True)


def test_g3_inside_a_snapshot_only_what_is_current_is_stored(clients: Clients, n: int) -> None:
    client = clients()
    address, classes = f"a::{n}", [f"cart/{n}"]
    snapshot = client.open_snapshot()
    assert snapshot.remaining_s > 0
    assert client.get_or_fill_outcome(address, classes, lambda: "old", snapshot=snapshot).stored
    client.invalidate(classes)
    read = client.get_or_fill_outcome(address, classes, lambda: "old", snapshot=snapshot)
    assert (read.value, read.how, read.stored) == ("old", How.BYPASSED, False)
    assert client.stats().bypass_snapshot == 1
    assert client.get_or_fill_outcome(address, classes, lambda: "new").how is How.FILLED
    # What the cache holds is served.
    assert client.get_or_fill(address, classes, never, snapshot=snapshot) == "new"


def test_g5_a_session_sees_its_write_at_any_sidecar_or_goes_to_the_source(clients: Clients, n: int) -> None:
    cache = MemoryCache()
    address, classes = f"a::{n}", [f"cart/{n}"]
    readers = [clients(node, cache) for node in range(3)]
    for round_ in range(10):
        reader = readers[round_ % 3]
        reader.get_or_fill(address, classes, lambda round_=round_: round_)
        # A receipt that waits for nobody: the others may not have it yet.
        outcome = readers[(round_ + 1) % 3].invalidate(classes, receipt=Receipt.NONE)
        session = Session(wait_s=10)
        session.add(outcome.session_token)
        session = Session.parse(str(session), wait_s=10)
        given = reader.get_or_fill(address, classes, lambda round_=round_: round_ + 1, session=session)
        assert given == round_ + 1
    with use_session(session):
        assert current_session() == session
        assert reader.get_or_fill_outcome(address, classes, never).how is How.HIT
    assert current_session() is None
    ahead = Session(wait_s=0.05)
    ahead.add(session.tokens[0][:17] + (2**40).to_bytes(8, "big"))
    read = readers[0].get_or_fill_outcome(address, classes, lambda: "source", session=ahead)
    assert (read.value, read.how, read.bypass_reason.value if read.bypass_reason else "") == (
        "source",
        How.BYPASSED,
        "session",
    )
    with pytest.raises(InvalidRequest, match="session: 'text' is no Session"):
        readers[0].get_or_fill(address, classes, never, session="text")  # type: ignore[arg-type]


def test_g7_what_a_soft_bump_replaced_is_served_while_one_computes_the_new_one(clients: Clients, n: int) -> None:
    client = clients()
    address, classes = f"a::{n}", [f"soft/{n}"]
    client.get_or_fill(address, classes, lambda: "old")
    client.invalidate(classes, soft=True)
    read = client.get_or_fill_outcome(address, classes, lambda: "new", serve_stale=True)
    assert (read.value, read.how) == ("old", How.STALE)
    eventually(
        lambda: client.get_or_fill_outcome(address, classes, lambda: "new", serve_stale=True).how is How.HIT,
        what="the new one is there",
    )
    stats = client.stats()
    assert stats.fills == 2
    assert stats.revalidations >= 1
    # Who does not ask for stale values gets none, and a hard bump ends it.
    client.invalidate(classes, soft=True)
    assert client.get_or_fill(address, classes, lambda: "newer") == "newer"
    client.invalidate(classes)
    assert client.get_or_fill(address, classes, lambda: "newest", serve_stale=True) == "newest"


def test_what_a_sidecar_applies_is_watched(clients: Clients, cluster: Cluster, n: int) -> None:
    with clients(2).watch([f"cart/{n}"]) as watch:
        assert isinstance(next(watch), WatchStarted)
        clients(0).invalidate([f"other/{n}"])
        outcome = clients(0).invalidate([f"cart/{n}/below", f"other/{n}"])
        assert next(watch) == WatchBump(outcome.event, (f"cart/{n}/below", f"other/{n}"), False)
        both = clients(1).invalidate([f"cart/{n}", f"other/{n}"], match_all=True)
        assert next(watch) == WatchBump(both.event, (f"cart/{n}", f"other/{n}"), True)
        watch.close()
        assert list(watch) == []


def test_many_are_resolved_in_one_call(clients: Clients, n: int) -> None:
    client = clients()
    resolutions = client.resolve_many([(f"a::{n}:{number}", [f"cart/{n}"]) for number in range(100)])
    assert len({each.address for each in resolutions}) == 100
    assert client.stats().resolve_rpcs == 1
    assert resolutions[7] == client.resolve(f"a::{n}:7", [f"cart/{n}"]) or resolutions[7].token != 0


@pytest.mark.parametrize(
    ("address", "classes", "field", "says"),
    [
        (13, ["a"], "address", "13 is an int; it must be a str"),
        (None, ["a"], "address", "None is a NoneType; it must be a str"),
        (b"a", ["a"], "address", "b'a' is a bytes; it must be a str"),
        ("", ["a"], "address", "it is empty"),
        ("a" * 251, ["a"], "address", "has 251 bytes; the limit is 250"),
        ("ä" * 126, ["a"], "address", "has 252 bytes; the limit is 250"),
        ("a b", ["a"], "address", "has the byte 0x20 at position 1"),
        ("a\r\nflush_all", ["a"], "address", "has the byte 0x0d at position 1"),
        ("ä\x7f", ["a"], "address", "has the byte 0x7f at position 2"),
        ("a\ud800", ["a"], "address", "has a lone surrogate"),
        ("a", [], "classes", "0 classes are outside 1 to 16"),
        ("a", ["c"] * 17, "classes", "17 classes are outside 1 to 16"),
        ("a", "cart/13", "classes", "'cart/13' is a str; it must be a list of classes"),
        ("a", None, "classes", "None is a NoneType; it must be a list of classes"),
        ("a", 7, "classes", "7 is an int; it must be a list of classes"),
        (
            "a",
            {"cart/13"},
            "classes",
            "{'cart/13'} is a set, which has no order; the first class chooses the policy: pass a",
        ),
        (
            "a",
            frozenset(["cart/13"]),
            "classes",
            "is a frozenset, which has no order; the first class chooses the policy",
        ),
        (
            "a",
            {"cart/13": 1}.keys(),
            "classes",
            "is a dict_keys, which has no order; the first class chooses the policy",
        ),
        ("a", {1: "cart/13"}.values(), "classes", "is a dict_values, which has no order; the first class chooses"),
        ("a", ["fine", "not fine"], "classes[1]", "has the byte 0x20 at position 3"),
        ("a", ["fine", 13], "classes[1]", "13 is an int; it must be a str"),
        ("a", ["a//b"], "classes[0]", "has an empty segment"),
        ("a", ["/a"], "classes[0]", "has an empty segment"),
        ("a", ["/".join("s" * 17)], "classes[0]", "has 17 segments; the limit is 16"),
        ("a", ["c" * 201], "classes[0]", "has 201 bytes; the limit is 200"),
    ],
)
def test_wrong_names_are_errors_that_name_the_field_and_run_nothing(
    clients: Clients, address: Any, classes: Any, field: str, says: str
) -> None:
    client = clients()
    for call in (
        lambda: client.get_or_fill(address, classes, never),
        lambda: client.get_or_fill_page(address, classes, 0, 5, never),
        lambda: client.resolve(address, classes),
    ):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.violations[0].field == field
        assert says in caught.value.violations[0].description
        assert f"{field}: " in str(caught.value)
    assert client.stats().resolve_items == 0


@pytest.mark.parametrize(
    ("ttl", "says"),
    [
        (0, "0 s is outside 0.001 s to 3.15576e+08 s; leave it out to take the policy's"),
        (-1, "-1 s is outside"),
        (float("nan"), "nan s is outside"),
        (float("inf"), "inf s is outside"),
        (10**9, "1000000000 s is outside"),
        ("60", "'60' is a str; it must be seconds, as a number or a timedelta"),
        (True, "True is a bool; it must be seconds"),
    ],
)
def test_a_bad_ttl_is_an_error_that_names_the_field(clients: Clients, ttl: Any, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        clients().get_or_fill("a", ["c"], never, ttl_s=ttl)
    assert caught.value.violations[0].field == "ttl_s"
    assert says in str(caught.value)


def test_other_wrong_arguments_name_their_fields(clients: Clients) -> None:
    client = clients()
    for call, field, says in (
        (lambda: client.get_or_fill("a", ["c"], 7), "loader", "7 is an int; it must be a function"),  # type: ignore[arg-type]
        (lambda: client.get_or_fill("a", ["c"], never, snapshot=5), "snapshot", "5 is no Snapshot"),  # type: ignore[arg-type]
        (lambda: client.get_or_fill_page("a", ["c"], 0, 5, never, snapshot=b""), "snapshot", "b'' is no Snapshot"),  # type: ignore[arg-type]
        (lambda: client.resolve("a", ["c"], snapshot="s"), "snapshot", "'s' is no Snapshot"),  # type: ignore[arg-type]
        (lambda: client.get_or_fill("a", ["c"], never, codec=5), "codec", "5 is no codec"),  # type: ignore[arg-type]
        (lambda: client.watch(None), "classes", "None is a NoneType"),  # type: ignore[arg-type]
        (lambda: client.invalidate([]), "classes", "0 classes are outside 1 to 1000"),
        (lambda: client.invalidate(["c"] * 1_001), "classes", "1001 classes are outside 1 to 1000"),
        (lambda: client.invalidate("cart/13"), "classes", "it must be a list"),
        (lambda: client.invalidate(["a"], match_all=True), "classes", "match_all takes 2 to 8 classes; there are 1"),
        (lambda: client.invalidate(["a"], timeout_s=0), "timeout_s", "0 s is outside 0.001 s to 60 s"),
        (lambda: client.invalidate(["a"], timeout_s=61), "timeout_s", "61 s is outside 0.001 s to 60 s"),
        (lambda: client.invalidate(["a"], receipt="all"), "receipt", "'all' is no Receipt"),  # type: ignore[arg-type]
        (lambda: client.begin_write([]), "classes", "0 classes are outside 1 to 1000"),
        (lambda: client.begin_write(["a"], lease_s=0.05), "lease_s", "0.05 s is outside 0.1 s to 600 s"),
        (lambda: client.begin_write(["a"], lease_s=601), "lease_s", "601 s is outside 0.1 s to 600 s"),
        (lambda: client.watch(["c"] * 101), "classes", "101 classes are outside 1 to 100"),
        (lambda: client.watch("cart"), "classes", "it must be a list"),
        (lambda: client.get_or_fill_page("a", ["c"], -1, 1, never), "page.offset", "-1 is outside 0 to"),
        (lambda: client.get_or_fill_page("a", ["c"], 0, 0, never), "page.limit", "0 is outside 1 to 10000"),
        (lambda: client.get_or_fill_page("a", ["c"], 0, 1.5, never), "page.limit", "1.5 is a float"),  # type: ignore[arg-type]
        (lambda: client.resolve_many([]), "items", "0 look-ups are outside 1 to 1000"),
        (lambda: client.resolve_many([("a", ["c"]), ("", ["c"])]), "items[1].address", "it is empty"),
        (lambda: client.open_snapshot(lease_s=601), "lease_s", "601 s is outside 0.001 s to 600 s"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert (caught.value.violations[0].field, says in str(caught.value)) == (field, True), str(caught.value)


def test_what_is_invalidated_or_watched_may_be_a_set(clients: Clients, n: int) -> None:
    # No class of these is first.
    client = clients()
    classes = [f"cart/{n}", f"prices/{n}"]
    for call in (
        lambda: client.invalidate(set(classes)),
        lambda: client.invalidate(dict.fromkeys(classes).keys(), match_all=True),
        lambda: client.begin_write(frozenset(classes)),
        lambda: client.watch(set(classes)).close(),
    ):
        call()


def test_what_only_the_sidecar_can_refuse_names_the_field_too(clients: Clients) -> None:
    client = clients()
    for call in (
        lambda: client.get_or_fill("a" * 250, ["versioned"], never),
        lambda: client.resolve("a" * 250, ["versioned"]),
    ):
        with pytest.raises(InvalidRequest, match="has 263 bytes once decorated; the limit is 250") as caught:
            call()
        assert caught.value.violations[0].field == "address"
    with pytest.raises(InvalidRequest, match=r"classes"):
        client.get_or_fill("a", ["*"], never)


def test_a_client_without_a_cache_says_so(cluster: Cluster) -> None:
    with Client(cluster[0].tcp) as client, pytest.raises(ConfigError, match="built without a cache"):
        client.get_or_fill("a", ["c"], never)


def test_over_a_unix_socket_it_is_the_same(cluster: Cluster, n: int) -> None:
    with Client(cluster[0].unix, cache="memory://", settings=Settings(resolve_deadline_s=5)) as client:
        assert client.wait_until_ready().node_id == "a"
        assert client.get_or_fill(f"a::{n}", [f"cart/{n}"], lambda: 7) == 7
        assert client.get_or_fill_outcome(f"a::{n}", [f"cart/{n}"], never).how is How.HIT


def test_a_large_value_and_the_constant_of_the_magic(clients: Clients, redis_url: str, n: int) -> None:
    client = clients(0, redis_url, codec=BytesCodec())
    value = bytes([MAGIC]) * (3 << 20)
    assert client.get_or_fill(f"a::{n}", [f"cart/{n}"], lambda: value) == value
    assert client.get_or_fill(f"a::{n}", [f"cart/{n}"], never) == value


def test_every_adapter_keeps_gives_adds_and_lets_go(memcached_url: str, redis_url: str, n: int) -> None:
    for url in (memcached_url, redis_url, "memory://"):
        cache = connect_cache(url)
        key, umlaut = f"k::{n}", f"ü::{n}"
        assert cache.get(key) is None
        cache.set(key, b"\x00\xff", 60_000)
        assert cache.add(umlaut, b"", 60_000)
        assert not cache.add(umlaut, b"again", 60_000)
        assert cache.get_many([key, umlaut, "absent"]) == {key: b"\x00\xff", umlaut: b""}
        assert cache.get_many([]) == {}
        # More than memcached takes for a duration.
        cache.set(key, b"long", 10 * 365 * 86_400_000)
        assert cache.get(key) == b"long"
        cache.close()
