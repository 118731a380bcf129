"""Every call as it is meant: resolve, fill, register, invalidate, list, watch, and the services around them."""

import threading
import time

import grpc
from grapevine.v1 import application_pb2 as app
from grapevine.v1 import types_pb2 as types
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import formats
from cached import commit, invalidate, read, resolve
from pykit import eventually
from stubs import CALL_TIMEOUT_S


def check_resolve_decorates_with_the_token(world):
    first, *others = world.sidecars
    resolution, answer = resolve(first, "items::13", "cart/13")
    assert answer.freshness == types.FRESHNESS_FRESH and answer.freshness_reason == ""
    assert resolution.strategy == types.STRATEGY_VERSIONED
    assert not (resolution.envelope or resolution.commit_required or resolution.bypass)
    address = formats.versioned_address("items::13", resolution.token)
    assert [target.address for target in resolution.targets] == [address]
    assert 0 < resolution.ttl_ms <= 3_600_000 and resolution.lease_ms > 0
    # G12: the same knowledge, the same token, wherever it is asked.
    for other in others:
        assert resolve(other, "items::13", "cart/13")[0].token == resolution.token


def check_resolve_many_at_once_and_over_a_stream(world):
    sidecar = world.sidecars[0]
    items = [app.ResolveItem(address=f"many::{n}", classes=["many/x", f"many/{n}"]) for n in range(1_000)]
    answer = sidecar.app.Resolve(app.ResolveRequest(items=items), timeout=CALL_TIMEOUT_S)
    assert len(answer.results) == 1_000
    assert len({result.targets[0].address for result in answer.results}) == 1_000
    requests = (
        app.ResolveStreamRequest(request=app.ResolveRequest(items=items[at : at + 100])) for at in range(0, 1_000, 100)
    )
    streamed = []
    for message in sidecar.app.ResolveStream(requests, timeout=CALL_TIMEOUT_S):
        streamed.extend(message.response.results)
    expected = [result.targets[0].address for result in answer.results]
    assert [result.targets[0].address for result in streamed] == expected, "answers come in request order"


def check_slices_are_planned_onto_pages(world):
    items = [str(number).encode() for number in range(50)]
    page = app.Page(offset=35, limit=10)
    resolution, _ = resolve(world.sidecars[0], "list::1", "paged/1", page=page)
    plan = [(target.page_index, target.page_size, target.skip, target.take) for target in resolution.targets]
    assert plan == [(1, 20, 15, 5), (2, 20, 0, 5)]
    out = []
    for target in resolution.targets:
        undecorated = formats.page_address("list::1", target.page_size, target.page_index)
        assert target.address == formats.versioned_address(undecorated, resolution.token)
        start = target.page_index * target.page_size
        stored = formats.pack_page(items[start : start + target.page_size])
        out += formats.unpack_page(stored)[target.skip : target.skip + target.take]
    assert out == items[35:45]


def check_long_addresses_are_hashed_where_policy_says_so(world):
    resolution, _ = resolve(world.sidecars[0], "x" * 238, "long/1")
    hashed = formats.hashed_address("x" * 238)
    assert resolution.targets[0].address == formats.versioned_address(hashed, resolution.token)


def check_fill_with_an_envelope_and_delete_it(world):
    sidecar, cache = world.sidecars[0], world.cache()
    values = [b"two apples", b"three apples"]

    def source():
        return values[0]

    address, class_path = "registered::13", "registered/13"
    resolution, _ = resolve(sidecar, address, class_path)
    assert resolution.envelope and resolution.commit_required
    assert resolution.targets[0].address == address, "a registered address is not decorated"
    assert [read(sidecar, cache, address, class_path, source).how for _ in range(2)] == ["filled", "hit"]
    for other in world.sidecars[1:]:
        there = read(other, cache, address, class_path, source)
        assert (there.how, there.value) == ("hit", b"two apples"), "nodes share what is cached"
    values.pop(0)
    answer = invalidate(sidecar, class_path, receipt=types.RECEIPT_LEVEL_ALL)
    assert answer.receipt.satisfied and answer.addresses_purged == 1
    assert cache.get(address) is None, "the value was deleted before the answer"
    for other in world.sidecars:
        assert read(other, cache, address, class_path, source).value == b"three apples"


def check_g3_a_late_fill_is_condemned_and_a_late_set_is_not_served(world):
    sidecar, cache = world.sidecars[0], world.cache()
    address, class_path = "registered::late", "registered/late"
    resolution, _ = resolve(sidecar, address, class_path)
    invalidate(sidecar, class_path, receipt=types.RECEIPT_LEVEL_ALL)
    verdict = commit(sidecar, resolution, address, [class_path])
    assert not verdict.accepted and verdict.reason == app.CONDEMN_REASON_BUMPED
    # A writer that does not ask stores it all the same: its token gives it away.
    cache.set(address, formats.Envelope(resolution.token, address, b"old").pack(), 60_000)
    for other in world.sidecars:
        after = read(other, cache, address, class_path, lambda: b"new")
        assert after.value == b"new", after
    nobody = app.Fill(address=address, classes=[class_path], lease=b"of another run")
    verdict = sidecar.app.CommitFill(app.CommitFillRequest(fills=[nobody]), timeout=CALL_TIMEOUT_S).verdicts[0]
    assert not verdict.accepted and verdict.reason == app.CONDEMN_REASON_LEASE_UNKNOWN


def check_bucketed_addresses_and_their_collisions(world):
    sidecar, cache = world.sidecars[0], world.cache()
    class_path = "bucketed/1"
    by_bucket: dict[str, list[str]] = {}
    for number in range(40):
        address = f"bucketed::{number}"
        resolution, _ = resolve(sidecar, address, class_path)
        where = formats.bucketed_address(address, class_path, 8)
        assert resolution.targets[0].address == where and resolution.envelope
        by_bucket.setdefault(where, []).append(address)
    one, other = next(names for names in by_bucket.values() if len(names) > 1)[:2]
    assert read(sidecar, cache, one, class_path, lambda: b"one").how == "filled"
    assert read(sidecar, cache, one, class_path, lambda: b"!").how == "hit"
    # The other one's bytes are recognised by the address in the envelope, and replaced.
    collided = read(sidecar, cache, other, class_path, lambda: b"other")
    assert (collided.how, collided.value) == ("filled", b"other")
    invalidate(sidecar, class_path)
    assert read(sidecar, cache, other, class_path, lambda: b"new").value == b"new"


def check_ttl_values_lapse(world):
    sidecar, cache = world.sidecars[0], world.cache()
    resolution, _ = resolve(sidecar, "lapsing::1", "lapsing/1")
    assert resolution.strategy == types.STRATEGY_TTL and resolution.ttl_ms <= 2_000
    assert read(sidecar, cache, "lapsing::1", "lapsing/1", lambda: b"old").how == "filled"
    invalidate(sidecar, "lapsing/1")
    assert read(sidecar, cache, "lapsing::1", "lapsing/1", lambda: b"new").value == b"old", "bumps do not matter"
    eventually(
        lambda: read(sidecar, cache, "lapsing::1", "lapsing/1", lambda: b"new").value == b"new", what="it lapses"
    )


def check_dependencies_found_during_a_fill(world):
    sidecar = world.sidecars[0]
    classes, added = ["dependent/1"], ["prices/9", "item/7"]
    resolution, _ = resolve(sidecar, "dependent::1", *classes)
    verdict = commit(sidecar, resolution, resolution.targets[0].address, classes, added)
    assert verdict.accepted
    stored = formats.Envelope(resolution.token, "dependent::1", b"v", added, verdict.token).pack()
    envelope = formats.unpack_envelope(stored)

    def with_them():
        return resolve(world.sidecars[1], "dependent::1", *classes, *envelope.dependencies)[0].token

    assert with_them() == envelope.dependency_token
    invalidate(sidecar, "prices", receipt=types.RECEIPT_LEVEL_ALL)
    assert with_them() != envelope.dependency_token, "a bump of the parent of a dependency shows"
    assert resolve(sidecar, "dependent::1", *classes)[0].token == resolution.token


def listed(sidecar, class_path: str, **options) -> list[tuple[str, str]]:
    request = app.ListAddressesRequest(**{"class": class_path}, **options)
    rows = []
    for chunk in sidecar.app.ListAddresses(request, timeout=CALL_TIMEOUT_S):
        rows += [(getattr(entry, "class"), entry.address) for entry in chunk.entries]
    return rows


def register(sidecar, addresses, *classes, ttl_ms=600_000, **options):
    registrations = [
        app.Registration(address=address, classes=classes, ttl_ms=ttl_ms, **options) for address in addresses
    ]
    request = app.RegisterRequest(registrations=registrations)
    return sidecar.app.Register(request, timeout=CALL_TIMEOUT_S)


def check_registrations_are_listed_everywhere_and_page_by_page(world):
    first, second, third = world.sidecars
    answer = register(first, [f"reg::{n:04}" for n in range(1_500)], "reg/1")
    assert answer.accepted == 1_500 and not answer.condemned
    batches = (
        app.RegisterStreamRequest(
            batch=app.RegisterRequest(
                registrations=[app.Registration(address=f"reg::{batch}:{n}", classes=["reg/2"]) for n in range(200)]
            )
        )
        for batch in range(5)
    )
    summary = second.app.RegisterStream(batches, timeout=CALL_TIMEOUT_S)
    assert (summary.accepted, summary.condemned) == (1_000, 0)
    for sidecar in world.sidecars:
        eventually(lambda sidecar=sidecar: len(listed(sidecar, "reg")) == 2_500, what=f"{sidecar.name} lists all")
    rows = listed(third, "reg")
    assert rows == sorted(rows) and rows == listed(first, "reg"), "in a stable order"
    # Page by page, from one chunk's token to the next.
    pages, token = [], b""
    while True:
        request = app.ListAddressesRequest(**{"class": "reg"}, limit=700, page_token=token)
        chunks = list(third.app.ListAddresses(request, timeout=CALL_TIMEOUT_S))
        page = [(getattr(entry, "class"), entry.address) for chunk in chunks for entry in chunk.entries]
        pages += page
        token = chunks[-1].next_page_token if chunks else b""
        if not token:
            break
        assert len(page) == 700
    assert pages == rows
    soon = time.time() * 1_000 + 600_000
    chunk = next(first.app.ListAddresses(app.ListAddressesRequest(**{"class": "reg/1"}), timeout=CALL_TIMEOUT_S))
    assert all(soon - 60_000 < entry.expires_unix_ms < soon + 600_000 for entry in chunk.entries)
    invalidate(third, "reg/1", receipt=types.RECEIPT_LEVEL_ALL)
    for sidecar in world.sidecars:
        eventually(lambda sidecar=sidecar: len(listed(sidecar, "reg")) == 1_000, what=f"{sidecar.name} forgot reg/1")


def check_classes_are_listed(world):
    sidecar = world.sidecars[0]
    register(sidecar, ["k::1", "k::2"], "known/a/1")
    invalidate(sidecar, "known/b", receipt=types.RECEIPT_LEVEL_ALL)
    for asked in world.sidecars:

        def rows(asked=asked):
            out = []
            for chunk in asked.app.ListClasses(app.ListClassesRequest(below="known"), timeout=CALL_TIMEOUT_S):
                out += [(getattr(entry, "class"), entry.addresses, entry.bumped) for entry in chunk.entries]
            return out

        eventually(lambda: rows() == [("known/a/1", 2, False), ("known/b", 0, True)], what=asked.name)


def check_receipts_say_who_has_it(world):
    first = world.sidecars[0]
    levels = [
        types.RECEIPT_LEVEL_NONE,
        types.RECEIPT_LEVEL_UNSPECIFIED,
        types.RECEIPT_LEVEL_ONE,
        types.RECEIPT_LEVEL_QUORUM,
        types.RECEIPT_LEVEL_ALL,
    ]
    for level in levels:
        answer = invalidate(first, "receipts/1", receipt=level)
        assert answer.receipt.satisfied, answer
        assert len(answer.event.incarnation) == 16 and answer.event.sequence > 0
        assert 0 < len(answer.session_token) <= 64
        names = [holder.node_id for holder in answer.receipt.holders]
        assert names == ["a", "b", "c"], "this sidecar first, then by name"
        have = sum(holder.state == types.HOLDER_STATE_HAS for holder in answer.receipt.holders)
        least = {types.RECEIPT_LEVEL_NONE: 1, types.RECEIPT_LEVEL_ALL: 3}.get(level, 2)
        assert have >= least, (level, have)


def check_all_of_several_classes(world):
    sidecar = world.sidecars[0]

    def token(*classes):
        return resolve(sidecar, "and::1", *classes)[0].token

    sets = [("and/a", "and/b"), ("and/a",), ("and/b",), ("and/a", "and/b", "and/c"), ("and/a/1", "and/b/2")]
    before = [token(*classes) for classes in sets]
    invalidate(sidecar, "and/a", "and/b", match=app.MATCH_ALL, receipt=types.RECEIPT_LEVEL_ALL)
    after = [token(*classes) for classes in sets]
    changed = [old != new for old, new in zip(before, after, strict=True)]
    assert changed == [True, False, False, True, True], changed


def check_g5_a_session_waits_for_what_it_wrote(world):
    first, second, third = world.sidecars
    for _ in range(20):
        answer = invalidate(first, "session/1", receipt=types.RECEIPT_LEVEL_NONE)
        session = app.Session(tokens=[answer.session_token], wait_ms=10_000)
        # Asked of another sidecar at once, it answers only when it has applied the write.
        tokens = {resolve(sidecar, "s", "session/1", session=session)[0].token for sidecar in (second, third)}
        assert tokens == {resolve(first, "s", "session/1")[0].token}
    ahead = answer.session_token[:-8] + (2**60).to_bytes(8, "big")
    try:
        resolve(second, "s", "session/1", session=app.Session(tokens=[ahead], wait_ms=50))
        raise AssertionError("it answered without having applied what the session names")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error


def check_watchers_hear_of_bumps_elsewhere(world):
    first, _, third = world.sidecars
    call = third.app.Watch(app.WatchRequest(classes=["watched/1"]))
    heard, started = [], threading.Event()

    def listen():
        try:
            for message in call:
                heard.append(message)
                started.set()
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.CANCELLED, error

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        assert started.wait(CALL_TIMEOUT_S), "a watch begins with `started`"
        invalidate(first, "elsewhere/1")
        expected = [["watched/1"], ["watched/1/below"], ["watched"]]
        events = [invalidate(first, *classes).event for classes in expected]
        eventually(lambda: len(heard) >= 4, what="three bumps")
    finally:
        call.cancel()
        thread.join()
    assert heard[0].WhichOneof("kind") == "started" and len(heard[0].started.incarnation) == 16
    bumps = [message.bump for message in heard[1:]]
    assert [list(bump.classes) for bump in bumps] == expected, heard
    assert [bump.event for bump in bumps] == events


def check_status_and_members(world):
    for sidecar in world.sidecars:
        status = sidecar.status()
        assert (status.node_id, status.cluster) == (sidecar.name, "grapevine")
        assert status.freshness == types.FRESHNESS_FRESH and len(status.incarnation) == 16
        assert status.counters["resolves"] > 0 and not status.policy_mismatch
        members = sidecar.members()
        assert [member.node_id for member in members] == ["a", "b", "c"]
        own = [member for member in members if member.incarnation == status.incarnation]
        assert [member.node_id for member in own] == [sidecar.name]
        assert all(member.policy_agrees and member.head == member.watermark for member in members)


def check_health(world):
    for sidecar in world.sidecars:
        health = health_pb2_grpc.HealthStub(sidecar.channel)
        for service in ("", "grapevine.v1.ApplicationService", "grapevine.v1.AdminService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL_TIMEOUT_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, (service, answer)
        try:
            health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=CALL_TIMEOUT_S)
            raise AssertionError("it knows a service that is not there")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error


def check_reflection_v1_and_v1alpha(world):
    # Both versions have the same messages.
    for version in ("v1", "v1alpha"):
        info = world.sidecars[0].channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="grapevine.v1.ApplicationService"),
        ]
        services, file = list(info(iter(requests), timeout=CALL_TIMEOUT_S))
        names = {service.name for service in services.list_services_response.service}
        assert {"grapevine.v1.ApplicationService", "grapevine.v1.AdminService", "grpc.health.v1.Health"} <= names, names
        assert any(b"ResolveRequest" in each for each in file.file_descriptor_response.file_descriptor_proto), version


def check_the_same_over_tcp(world):
    sidecar = world.sidecars[0]
    with grpc.insecure_channel(sidecar.tcp) as channel:
        from grapevine.v1 import application_pb2_grpc

        stub = application_pb2_grpc.ApplicationServiceStub(channel)
        item = app.ResolveItem(address="a", classes=["tcp/1"])
        answer = stub.Resolve(app.ResolveRequest(items=[item]), timeout=CALL_TIMEOUT_S)
        assert answer.results[0].token == resolve(sidecar, "a", "tcp/1")[0].token


CHECKS = [
    check_resolve_decorates_with_the_token,
    check_resolve_many_at_once_and_over_a_stream,
    check_slices_are_planned_onto_pages,
    check_long_addresses_are_hashed_where_policy_says_so,
    check_dependencies_found_during_a_fill,
    check_registrations_are_listed_everywhere_and_page_by_page,
    check_classes_are_listed,
    check_receipts_say_who_has_it,
    check_all_of_several_classes,
    check_g5_a_session_waits_for_what_it_wrote,
    check_watchers_hear_of_bumps_elsewhere,
    check_status_and_members,
    check_health,
    check_reflection_v1_and_v1alpha,
    check_the_same_over_tcp,
]
CHECKS_WITH_MEMCACHED = [
    check_fill_with_an_envelope_and_delete_it,
    check_g3_a_late_fill_is_condemned_and_a_late_set_is_not_served,
    check_bucketed_addresses_and_their_collisions,
    check_ttl_values_lapse,
]
