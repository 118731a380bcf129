"""What a client library does, in a page: look up, compare, fill, store. Follows docs/formats-values.md."""

from dataclasses import dataclass

import grpc
from grapevine.v1 import application_pb2 as app

import formats
from cluster import CALL_TIMEOUT_S


@dataclass
class Read:
    value: bytes
    # hit, filled, condemned (computed, but not stored) or bypassed
    how: str


def resolve(sidecar, address: str, *classes: str, page=None, session=None):
    """The resolution of one address, and the answer around it."""
    item = app.ResolveItem(address=address, classes=classes, page=page)
    request = app.ResolveRequest(items=[item], session=session)
    answer = sidecar.app.Resolve(request, timeout=CALL_TIMEOUT_S)
    assert len(answer.results) == 1
    return answer.results[0], answer


def commit(sidecar, resolution, address: str, classes, added=()):
    fill = app.Fill(address=address, classes=classes, added_classes=added, lease=resolution.lease)
    answer = sidecar.app.CommitFill(app.CommitFillRequest(fills=[fill]), timeout=CALL_TIMEOUT_S)
    assert len(answer.verdicts) == 1
    return answer.verdicts[0]


def invalidate(sidecar, *classes: str, **options):
    return sidecar.app.Invalidate(app.InvalidateRequest(classes=classes, **options), timeout=CALL_TIMEOUT_S)


def read(sidecar, cache, address: str, class_path: str, source) -> Read:
    """A read through the cache; `source` computes what is missing."""
    try:
        resolution, _ = resolve(sidecar, address, class_path)
    except grpc.RpcError as error:
        # No sidecar, no cache: nobody knows what is stale.
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error
        return Read(source(), "bypassed")
    if resolution.bypass:
        return Read(source(), "bypassed")
    where = resolution.targets[0].address
    stored = cache.get(where)
    if stored is not None and resolution.envelope:
        envelope = formats.unpack_envelope(stored)
        if envelope and envelope.token == resolution.token and envelope.address == address:
            return Read(envelope.value, "hit")
    elif stored is not None:
        return Read(stored, "hit")
    value = source()
    if resolution.commit_required:
        try:
            if not commit(sidecar, resolution, where, [class_path]).accepted:
                return Read(value, "condemned")
        except grpc.RpcError:
            return Read(value, "bypassed")
    data = value
    if resolution.envelope:
        data = formats.Envelope(resolution.token, address, value).pack()
    cache.set(where, data, resolution.ttl_ms)
    return Read(value, "filled")
