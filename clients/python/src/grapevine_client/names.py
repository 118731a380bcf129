"""The limits on what a call may name, checked before anything is sent.

The sidecar checks them too and has the last word. They are checked here as well because concurrent look-ups share one call, and
because a malformed one is then told at once, with the contract's names of fields.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, MappingView, Set
from datetime import timedelta

from grapevine_client.errors import InvalidRequest, Violation

ADDRESS_BYTES_MAX = 250
CLASS_BYTES_MAX = 200
CLASS_SEGMENTS_MAX = 16
CLASSES_MAX = 16
"""Of one address, those found during the fill included."""
BATCH_MAX = 1_000
INVALIDATE_CLASSES_MAX = 1_000
MATCH_ALL_CLASSES_MAX = 8
WATCH_CLASSES_MAX = 100
VIOLATIONS_MAX = 20
"""Of one request that are told, as by the sidecar."""
OFFSET_MAX = 1 << 40
SLICE_LIMIT_MAX = 10_000
TTL_S_MAX = 315_576_000
"""Ten years."""
TIMEOUT_S_MIN, TIMEOUT_S_MAX = 0.001, 60.0
WRITE_LEASE_S_MIN, WRITE_LEASE_S_MAX = 0.1, 600.0

# How much of an offending value a message shows.
_SHOWN_CHARS = 80


def check_address(field: str, address: object) -> str:
    return _text(field, address, ADDRESS_BYTES_MAX)


def check_class(field: str, class_path: object) -> str:
    path = _text(field, class_path, CLASS_BYTES_MAX)
    segments = path.split("/")
    if len(segments) > CLASS_SEGMENTS_MAX:
        raise InvalidRequest.one(
            field, f"{shorten(path)} has {len(segments)} segments; the limit is {CLASS_SEGMENTS_MAX}"
        )
    if "" in segments:
        raise InvalidRequest.one(
            field, f"{shorten(path)} has an empty segment; write segments separated by single slashes"
        )
    return path


def check_classes(field: str, classes: Iterable[str], most: int, *, ordered: bool = True) -> tuple[str, ...]:
    """The classes, as a tuple. `ordered` where the first one governs: of a value, but not of an invalidation or a watch."""
    if isinstance(classes, (str, bytes)) or not isinstance(classes, Iterable):
        # A string is a sequence of strings: without this, every letter would become a class.
        raise InvalidRequest.one(
            field, f"{shorten(classes)} is {kind(classes)}; it must be a list of classes, ['cart/13'] say"
        )
    if ordered and isinstance(classes, (Set, MappingView)):
        # Another process, or this one tomorrow, would take another class for the first.
        raise InvalidRequest.one(
            field,
            f"{shorten(classes)} is {kind(classes)}, which has no order; the first class chooses the policy: pass a list",
        )
    listed = tuple(classes)
    if not 1 <= len(listed) <= most:
        raise InvalidRequest.one(field, f"{len(listed)} classes are outside 1 to {most}")
    wrong: list[Violation] = []
    for index, class_path in enumerate(listed):
        try:
            check_class(f"{field}[{index}]", class_path)
        except InvalidRequest as invalid:
            wrong += invalid.violations
    if len(wrong) > VIOLATIONS_MAX:
        message = f"{len(wrong)} classes are wrong, of which the first {VIOLATIONS_MAX} are told"
        raise InvalidRequest(wrong[:VIOLATIONS_MAX], message)
    if wrong:
        raise InvalidRequest(wrong)
    return listed


def check_slice(offset: object, limit: object) -> tuple[int, int]:
    return _whole("page.offset", offset, 0, OFFSET_MAX), _whole("page.limit", limit, 1, SLICE_LIMIT_MAX)


def check_callable(field: str, function: object) -> None:
    if not callable(function):
        raise InvalidRequest.one(field, f"{shorten(function)} is {kind(function)}; it must be a function")


def check_ttl(field: str, ttl_s: object) -> int | None:
    """A time to live in milliseconds; None takes the policy's."""
    if ttl_s is None:
        return None
    return milliseconds(check_seconds(field, ttl_s, 0.001, TTL_S_MAX, "; leave it out to take the policy's"))


def check_seconds(field: str, value: object, least: float, most: float, hint: str = "") -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRequest.one(
            field, f"{shorten(value)} is {kind(value)}; it must be seconds, as a number or a timedelta{hint}"
        )
    if math.isnan(value) or not least <= value <= most:
        raise InvalidRequest.one(field, f"{value} s is outside {least:g} s to {most:g} s{hint}")
    return float(value)


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1_000))


def shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."


def kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def _whole(field: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest.one(field, f"{shorten(value)} is {kind(value)}; it must be a whole number")
    if not least <= value <= most:
        raise InvalidRequest.one(field, f"{value} is outside {least} to {most}")
    return value


def _text(field: str, value: object, bytes_max: int) -> str:
    if not isinstance(value, str):
        raise InvalidRequest.one(field, f"{shorten(value)} is {kind(value)}; it must be a str")
    if not value:
        raise InvalidRequest.one(field, "it is empty")
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest.one(field, f"{shorten(value)} has a lone surrogate; it must be valid Unicode") from None
    if len(raw) > bytes_max:
        raise InvalidRequest.one(field, f"{shorten(value)} has {len(raw)} bytes; the limit is {bytes_max}")
    # Nearly all names pass this at the speed of C.
    if value.isascii() and value.isprintable() and " " not in value:
        return value
    for position, byte in enumerate(raw):
        if byte <= 0x20 or byte == 0x7F:
            raise InvalidRequest.one(
                field,
                f"{shorten(value)} has the byte 0x{byte:02x} at position {position};"
                " whitespace and control bytes are not allowed",
            )
    return value
