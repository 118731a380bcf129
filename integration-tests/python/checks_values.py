"""Cached reads by the rules of docs/formats-values.md: forms of values, and dependencies. The cache is a dictionary here."""

from grapevine.v1 import types_pb2 as types

import formats
from cached import commit, invalidate, read, resolve

# One per strategy that bumps concern: versioned, registered, bucketed.
FENCED = ["values", "registered/values", "bucketed/values"]


class Dictionary:
    """A cache in this process."""

    def __init__(self):
        self.held = {}

    def get(self, key: str) -> bytes | None:
        return self.held.get(key)

    def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        assert ttl_ms > 0
        self.held[key] = value


class Spy:
    """A sidecar whose resolutions can be changed on their way here, and counted."""

    def __init__(self, sidecar, change=lambda request, answer: None):
        self.real, self.change, self.app, self.resolves, self.commits = sidecar, change, self, 0, 0
        self.timeout_s = sidecar.timeout_s

    def Resolve(self, request, timeout):
        self.resolves += 1
        answer = self.real.app.Resolve(request, timeout=timeout)
        self.change(request, answer)
        return answer

    def CommitFill(self, request, timeout):
        self.commits += 1
        return self.real.app.CommitFill(request, timeout=timeout)


def dependencies_count(world, class_path):
    cache, address, found = Dictionary(), f"{class_path}::dependent", ["found/prices/9", "found/item/7"]

    def get(sidecar, value):
        return read(sidecar, cache, address, class_path, lambda: value, found)

    assert get(world.sidecars[0], b"old").how == "filled"
    (stored,) = cache.held.values()
    envelope = formats.unpack_envelope(stored)
    assert (envelope.value, envelope.dependencies, envelope.address) == (b"old", found, address), envelope
    for sidecar in world.sidecars:
        seen = get(sidecar, b"!")
        assert (seen.how, seen.value) == ("hit", b"old"), (class_path, sidecar.name, seen)
    for number, bumped in enumerate(["found/item/7", "found/prices", "found"]):
        value = b"after bump %d" % number
        answer = invalidate(world.sidecars[1], bumped, receipt=types.RECEIPT_LEVEL_ALL)
        assert answer.receipt.satisfied
        # The look-up's own token has not changed: only the dependencies tell.
        seen = get(world.sidecars[2], value)
        assert (seen.how, seen.value) == ("filled", value), (class_path, bumped, seen)
        assert [get(sidecar, b"!").value for sidecar in world.sidecars] == [value] * 3


def check_g3_a_bump_of_a_dependency_makes_the_value_stale_for_every_reader(world):
    for class_path in FENCED:
        dependencies_count(world, class_path)


def check_g3_a_dependency_bumped_during_the_fill_condemns_it(world):
    sidecar = world.sidecars[0]
    for class_path in FENCED:
        cache = Dictionary()

        def source():
            invalidate(sidecar, "overtaken/price")
            return b"old"

        seen = read(sidecar, cache, f"{class_path}::overtaken", class_path, source, ["overtaken/price"])
        assert (seen.how, seen.value) == ("condemned", b"old") and not cache.held, (class_path, seen)


def check_dependencies_that_a_reader_cannot_look_up(world):
    sidecar, class_path, address = world.sidecars[0], "values", "values::unknown"
    resolution, _ = resolve(sidecar, address, class_path)
    where = resolution.targets[0].address
    # Malformed, or too many: a miss, not the reader's mistake.
    for names in (["a//b"], ["not a class"], [f"many/{number}" for number in range(16)]):
        cache = Dictionary()
        cache.held[where] = formats.Envelope(resolution.token, address, b"old", names, 7).pack()
        assert read(sidecar, cache, address, class_path, lambda: b"new").how == "filled", names

    # Policy says of them to read the source: nothing is served, and nothing is stored.
    def bypass_dependencies(request, answer):
        answer.results[0].bypass = len(request.items[0].classes) > 1

    verdict = commit(sidecar, resolution, where, [class_path], ["found/1"])
    stored = formats.Envelope(resolution.token, address, b"old", ["found/1"], verdict.token).pack()
    cache = Dictionary()
    cache.held[where] = stored
    assert read(sidecar, cache, address, class_path, lambda: b"new").how == "hit"
    seen = read(Spy(sidecar, bypass_dependencies), cache, address, class_path, lambda: b"new")
    assert (seen.how, seen.value) == ("bypassed", b"new") and cache.held == {where: stored}


def check_versioned_values_that_look_like_envelopes(world):
    sidecar = world.sidecars[0]
    for number, value in enumerate([b"\xc7", b"\xc7\x01\x00 not one", b"\xc7\x00", b"", b"two apples"]):
        cache, address = Dictionary(), f"values::odd{number}"
        assert read(sidecar, cache, address, "values", lambda value=value: value).how == "filled"
        ((where, stored),) = cache.held.items()
        token = resolve(sidecar, address, "values")[0].token
        if value[:1] == b"\xc7":
            assert stored == formats.Envelope(token, address, value).pack(), value
        else:
            assert stored == value
        for other in world.sidecars:
            seen = read(other, cache, address, "values", lambda: b"!")
            assert (seen.how, seen.value) == ("hit", value), (value, seen)
        # What begins like an envelope and is none, or another one's, is a miss.
        for wrong in (
            b"\xc7",
            b"\xc7\x01\x00 not one",
            formats.Envelope(token ^ 1, address, b"wrong").pack(),
            formats.Envelope(token, "values::other", b"wrong").pack(),
        ):
            cache.held[where] = wrong
            seen = read(sidecar, cache, address, "values", lambda: b"right")
            assert (seen.how, seen.value) == ("filled", b"right"), (wrong, seen)


def check_values_of_a_ttl_policy_list_no_dependencies(world):
    spy, cache, address = Spy(world.sidecars[0]), Dictionary(), "lapsing::dependent"

    def get():
        return read(spy, cache, address, "lapsing/dependent", lambda: b"v", ["found/2"])

    assert get().how == "filled"
    assert cache.held == {address: formats.Envelope(0, address, b"v").pack()}
    invalidate(world.sidecars[0], "found/2")
    assert (get().how, spy.resolves, spy.commits) == ("hit", 2, 0)


def check_g3_what_a_lagging_source_shows_right_after_a_bump_is_not_stored(world):
    sidecar, cache, address = world.sidecars[0], Dictionary(), "lagging::1"
    old, new = lambda: b"old", lambda: b"new"
    invalidate(sidecar, "lagging/1")
    for _ in range(2):
        seen = read(sidecar, cache, address, "lagging/1", old)
        assert (seen.how, seen.value) == ("lagging", b"old") and not cache.held, seen
    # Told to read the primary, it does, or stores nothing if it knows none.
    invalidate(sidecar, "lagging-primary/1")
    assert read(sidecar, cache, address, "lagging-primary/1", old).how == "lagging" and not cache.held
    seen = read(sidecar, cache, address, "lagging-primary/1", old, primary=new)
    assert (seen.how, seen.value) == ("filled", b"new"), seen
    assert read(sidecar, cache, address, "lagging-primary/1", old) == seen.__class__(b"new", "hit")


CHECKS = [
    check_g3_what_a_lagging_source_shows_right_after_a_bump_is_not_stored,
    check_g3_a_bump_of_a_dependency_makes_the_value_stale_for_every_reader,
    check_g3_a_dependency_bumped_during_the_fill_condemns_it,
    check_dependencies_that_a_reader_cannot_look_up,
    check_versioned_values_that_look_like_envelopes,
    check_values_of_a_ttl_policy_list_no_dependencies,
]
