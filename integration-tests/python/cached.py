"""What a client library does, in a page: look up, compare, fill, store. Follows docs/formats-values.md."""

from dataclasses import dataclass

import grpc
from grapevine.v1 import application_pb2 as app
from grapevine.v1 import types_pb2 as types

import formats


@dataclass
class Read:
    value: bytes
    # hit, filled, condemned or lagging (both computed, but not stored) or bypassed
    how: str


def resolve(sidecar, address: str, *classes: str, page=None, session=None):
    """The resolution of one address, and the answer around it."""
    item = app.ResolveItem(address=address, classes=classes, page=page)
    request = app.ResolveRequest(items=[item], session=session)
    answer = sidecar.app.Resolve(request, timeout=sidecar.timeout_s)
    assert len(answer.results) == 1
    return answer.results[0], answer


def commit(sidecar, resolution, address: str, classes, added=()):
    fill = app.Fill(address=address, classes=classes, added_classes=added, lease=resolution.lease)
    answer = sidecar.app.CommitFill(app.CommitFillRequest(fills=[fill]), timeout=sidecar.timeout_s)
    assert len(answer.verdicts) == 1
    return answer.verdicts[0]


def invalidate(sidecar, *classes: str, **options):
    return sidecar.app.Invalidate(app.InvalidateRequest(classes=classes, **options), timeout=sidecar.timeout_s)


# What a call ends with when its sidecar is down, starts or is drained.
AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


class Bypass(Exception):
    """Nobody can say what is stale: read the source and store nothing."""


def look_up(sidecar, address: str, *classes: str):
    """A resolution that a cached read may rest on."""
    try:
        resolution, _ = resolve(sidecar, address, *classes)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
            raise
        assert error.code() in AWAY, error
        raise Bypass from None
    if resolution.bypass:
        raise Bypass
    return resolution


def still_holds(sidecar, envelope: formats.Envelope, classes) -> bool:
    """Whether nothing that the value depends on beyond the look-up's classes has changed."""
    if not envelope.dependencies:
        return True
    try:
        resolution = look_up(sidecar, envelope.address, *classes, *envelope.dependencies)
    except grpc.RpcError:
        # The names came from the cache: malformed or too many of them are a miss, and not this reader's mistake.
        return False
    return resolution.token == envelope.dependency_token


def read(sidecar, cache, address: str, class_path: str, source, depends_on=(), primary=None) -> Read:
    """A read through the cache; `source` computes what is missing, and `depends_on` names what else it rests on.

    Where `source` reads what lags behind, `primary` computes the same from what does not.
    """
    try:
        resolution = look_up(sidecar, address, class_path)
        where = resolution.targets[0].address
        stored = cache.get(where)
        if stored is not None:
            held = formats.load(resolution.envelope, resolution.token, address, stored)
            if held and still_holds(sidecar, held, [class_path]):
                return Read(held.value, "hit")
    except Bypass:
        return Read(source(), "bypassed")
    lags = resolution.fill_forbidden or (resolution.read_primary and primary is None)
    fresh = formats.Envelope(resolution.token, address, (primary if resolution.read_primary and primary else source)())
    if lags:
        return Read(fresh.value, "lagging")
    if resolution.strategy != types.STRATEGY_TTL:
        fresh.dependencies = [name for name in depends_on if name != class_path]
    if resolution.commit_required or fresh.dependencies:
        try:
            verdict = commit(sidecar, resolution, where, [class_path], fresh.dependencies)
        except grpc.RpcError:
            return Read(fresh.value, "bypassed")
        if not verdict.accepted:
            return Read(fresh.value, "condemned")
        fresh.dependency_token = verdict.token
    cache.set(where, formats.store(resolution.envelope, fresh), resolution.ttl_ms)
    return Read(fresh.value, "filled")
