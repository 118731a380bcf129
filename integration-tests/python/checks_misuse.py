"""Wrong calls: each has its code, names its field in `google.rpc.BadRequest`, tells the limit, and harms nobody."""

import functools

import google_rpc_pb2 as rpc
import grpc
from grapevine.v1 import application_pb2 as app

from cached import invalidate, resolve
from stubs import CALL_TIMEOUT_S

TEN_YEARS_MS = 10 * 8_766 * 3_600_000

BAD_ADDRESSES = [
    ("", "empty"),
    ("a" * 251, "250"),
    ("é" * 126, "250"),
    ("a b", "0x20"),
    ("a\tb", "0x09"),
    ("a\r\nflush_all", "0x0d"),
    ("a\0", "0x00"),
    ("a\x7f", "0x7f"),
]
BAD_CLASSES = [
    ("", "empty"),
    ("/a", "segment"),
    ("a/", "segment"),
    ("a//b", "segment"),
    ("/", "segment"),
    ("a b", "0x20"),
    ("a\nb", "0x0a"),
    ("a" * 201, "200"),
    ("/".join(["a"] * 17), "16"),
]


def error_of(call) -> grpc.RpcError:
    try:
        answer = call()
        if isinstance(answer, grpc.Call) and hasattr(answer, "__next__"):
            list(answer)
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"it was taken: {answer}")


def details_of(error) -> rpc.Status:
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            return rpc.Status.FromString(value)
    raise AssertionError(f"no details: {error}")


def asking(method, request):
    """The call, to be made later."""
    return functools.partial(method, request, timeout=CALL_TIMEOUT_S)


def refused(call, field: str, *tells: str) -> None:
    """The call must be refused for the field, with all of this in the description."""
    error = error_of(call)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    assert len(error.details()) < 1_000
    violations = []
    for detail in details_of(error).details:
        bad = rpc.BadRequest()
        if detail.Unpack(bad):
            violations += bad.field_violations
    named = [violation.description for violation in violations if violation.field == field]
    assert named, f"{field} is not among {violations}"
    for part in tells:
        assert part in named[0], (part, named[0])


def calls_of(sidecar):
    """Calls with one part that may be wrong; the rest is right."""
    stub, timeout = sidecar.app, CALL_TIMEOUT_S

    def resolve_with(address="a", classes=("c",), page=None, session=None):
        item = app.ResolveItem(address=address, classes=classes, page=page)
        return lambda: stub.Resolve(app.ResolveRequest(items=[item], session=session), timeout=timeout)

    def register_with(address="a", classes=("c",), ttl_ms=0):
        registration = app.Registration(address=address, classes=classes, ttl_ms=ttl_ms)
        return lambda: stub.Register(app.RegisterRequest(registrations=[registration]), timeout=timeout)

    def fill_with(address="a", classes=("c",), added=(), ttl_ms=0):
        fill = app.Fill(address=address, classes=classes, added_classes=added, ttl_ms=ttl_ms)
        return lambda: stub.CommitFill(app.CommitFillRequest(fills=[fill]), timeout=timeout)

    def invalidate_with(classes=("c",), **options):
        return lambda: stub.Invalidate(app.InvalidateRequest(classes=classes, **options), timeout=timeout)

    return resolve_with, register_with, fill_with, invalidate_with


def check_malformed_addresses(world):
    resolve_with, register_with, fill_with, _ = calls_of(world.sidecars[0])
    for bad, tells in BAD_ADDRESSES:
        refused(resolve_with(address=bad), "items[0].address", tells)
        refused(register_with(address=bad), "registrations[0].address", tells)
        refused(fill_with(address=bad), "fills[0].address", tells)
    # Too long only once it is decorated, and the policy refuses that.
    refused(resolve_with(address="a" * 240), "items[0].address", "253", "250")


def check_malformed_classes(world):
    sidecar = world.sidecars[0]
    resolve_with, register_with, fill_with, invalidate_with = calls_of(sidecar)
    for bad, tells in BAD_CLASSES:
        refused(resolve_with(classes=["c", bad]), "items[0].classes[1]", tells)
        refused(register_with(classes=[bad]), "registrations[0].classes[0]", tells)
        refused(fill_with(added=[bad]), "fills[0].added_classes[0]", tells)
        refused(invalidate_with(classes=["c", bad]), "classes[1]", tells)
        refused(asking(sidecar.app.Watch, app.WatchRequest(classes=[bad])), "classes[0]", tells)
        refused(asking(sidecar.app.ListAddresses, app.ListAddressesRequest(**{"class": bad})), "class", tells)
        if bad:
            refused(asking(sidecar.app.ListClasses, app.ListClassesRequest(below=bad)), "below", tells)


def check_too_many_of_anything(world):
    sidecar = world.sidecars[0]
    resolve_with, register_with, fill_with, invalidate_with = calls_of(sidecar)
    many = [f"c/{number}" for number in range(100_000)]
    refused(invalidate_with(many), "classes", "100000", "1000")
    refused(invalidate_with(many[:1_001]), "classes", "1001", "1000")
    refused(invalidate_with([]), "classes", "1 to 1000")
    refused(invalidate_with(many[:9], match=app.MATCH_ALL), "classes", "8")
    refused(invalidate_with(many[:1], match=app.MATCH_ALL), "classes", "2 to 8")
    refused(resolve_with(classes=many), "items[0].classes", "100000", "16")
    refused(resolve_with(classes=[]), "items[0].classes", "1 to 16")
    refused(register_with(classes=many[:17]), "registrations[0].classes", "16")
    refused(fill_with(classes=many[:10], added=many[10:17]), "fills[0].classes", "17", "16")
    stub, timeout = sidecar.app, CALL_TIMEOUT_S
    items = [app.ResolveItem(address="a", classes=["c"])] * 1_001
    refused(lambda: stub.Resolve(app.ResolveRequest(items=items), timeout=timeout), "items", "1001", "1000")
    refused(lambda: stub.Resolve(app.ResolveRequest(), timeout=timeout), "items", "1 to 1000")
    registrations = [app.Registration(address="a", classes=["c"])] * 10_001
    request = app.RegisterRequest(registrations=registrations)
    refused(lambda: stub.Register(request, timeout=timeout), "registrations", "10001", "10000")
    # A batch of bad ones is told in a bounded answer.
    request = app.RegisterRequest(registrations=[app.Registration(classes=["c"])] * 10_000)
    refused(lambda: stub.Register(request, timeout=timeout), "registrations[0].address", "empty")


def check_absurd_numbers_and_unknown_values(world):
    resolve_with, register_with, fill_with, invalidate_with = calls_of(world.sidecars[0])
    for ttl_ms in (TEN_YEARS_MS + 1, 2**64 - 1):
        refused(register_with(ttl_ms=ttl_ms), "registrations[0].ttl_ms", "10 years")
        refused(fill_with(ttl_ms=ttl_ms), "fills[0].ttl_ms", "10 years")
    refused(resolve_with(classes=["paged/1"], page=app.Page(offset=0, limit=0)), "items[0].page")
    refused(resolve_with(classes=["paged/1"], page=app.Page(offset=0, limit=10_001)), "items[0].page", "10000")
    refused(resolve_with(classes=["paged/1"], page=app.Page(offset=2**40 + 1, limit=1)), "items[0].page")
    for field, value, tells in [("match", 77, "77"), ("receipt", 99, "99"), ("purge", 9, "9")]:
        refused(invalidate_with(**{field: value}), field, tells)
    refused(invalidate_with(timeout_ms=60_001), "timeout_ms", "60000")
    for tokens, wait_ms, field in [
        ([b""], 0, "session.tokens[0]"),
        ([b"\x01" * 24], 0, "session.tokens[0]"),
        ([b"\x09" * 25], 0, "session.tokens[0]"),
        ([b"\x01" * 4_000], 0, "session.tokens[0]"),
        ([b"\x01" * 25] * 4, 0, "session.tokens"),
        ([], 60_001, "session.wait_ms"),
    ]:
        session = app.Session(tokens=tokens, wait_ms=wait_ms)
        refused(resolve_with(session=session), field)
        refused(invalidate_with(session=session), field)


def check_page_tokens_of_somebody_else(world):
    stub = world.sidecars[0].app
    for token in (b"x", b"\x01" * 300):
        listing = app.ListAddressesRequest(**{"class": "c"}, page_token=token)
        refused(asking(stub.ListAddresses, listing), "page_token")
        classes = app.ListClassesRequest(page_token=token)
        refused(asking(stub.ListClasses, classes), "page_token")


def check_a_message_over_the_limit(world):
    sidecar = world.sidecars[0]
    item = app.ResolveItem(address="a" * (17 << 20), classes=["c"])

    def call():
        return sidecar.app.Resolve(app.ResolveRequest(items=[item]), timeout=CALL_TIMEOUT_S)

    error = error_of(call)
    # Whoever reads first says so: gRPC's message limit is not a field of ours.
    assert error.code() in (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED), error


def check_streams_end_with_the_reason(world):
    stub = world.sidecars[0].app
    good = app.ResolveStreamRequest(request=app.ResolveRequest(items=[app.ResolveItem(address="a", classes=["c"])]))
    bad = app.ResolveStreamRequest(request=app.ResolveRequest(items=[app.ResolveItem(address="a b", classes=["c"])]))
    answers = stub.ResolveStream(iter([good, bad, good]), timeout=CALL_TIMEOUT_S)
    assert len(next(answers).response.results) == 1, "what came before is answered"
    refused(lambda: next(answers), "items[0].address", "0x20")
    refused(lambda: next(stub.ResolveStream(iter([app.ResolveStreamRequest()]), timeout=CALL_TIMEOUT_S)), "request")
    empty = iter([app.RegisterStreamRequest()])
    refused(lambda: stub.RegisterStream(empty, timeout=CALL_TIMEOUT_S), "batch")


def check_an_unknown_method(world):
    channel = world.sidecars[0].channel
    call = channel.unary_unary("/grapevine.v1.ApplicationService/Forget")
    assert error_of(lambda: call(b"", timeout=CALL_TIMEOUT_S)).code() == grpc.StatusCode.UNIMPLEMENTED


def check_bytes_that_are_no_message(world):
    channel = world.sidecars[0].channel
    call = channel.unary_unary("/grapevine.v1.ApplicationService/Resolve")
    error = error_of(lambda: call(b"\xff" * 64, timeout=CALL_TIMEOUT_S))
    assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT), error


def check_nobody_is_harmed(world):
    for sidecar in world.sidecars:
        before = resolve(sidecar, "a", "unharmed/1")[0].token
        assert invalidate(sidecar, "unharmed/1").receipt.satisfied
        assert resolve(sidecar, "a", "unharmed/1")[0].token != before


CHECKS = [
    check_malformed_addresses,
    check_malformed_classes,
    check_too_many_of_anything,
    check_absurd_numbers_and_unknown_values,
    check_page_tokens_of_somebody_else,
    check_a_message_over_the_limit,
    check_streams_end_with_the_reason,
    check_an_unknown_method,
    check_bytes_that_are_no_message,
    check_nobody_is_harmed,
]
