"""What stands in the cache: envelopes and pages, by docs/formats-values.md. Integers are big-endian, texts UTF-8.

Envelope::

    C7 01 flags token[8] len[2] address  ( count[1] ( len[2] class )*count token[8] )?  value

Flag bit 0 says that dependencies follow the address. Page::

    count[4] ( len[4] item )*count
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from grapevine_client.errors import FormatError

MAGIC = 0xC7
VERSION = 1
_HAS_DEPENDENCIES = 1
_HEAD = struct.Struct(">BBBQH")
_DEPENDENCIES_MAX = 255
_U16_MAX = 0xFFFF
_U32_MAX = 0xFFFF_FFFF


@dataclass(frozen=True)
class Dependencies:
    """Classes that a value rests on beyond those of its look-up."""

    classes: tuple[str, ...]
    token: int
    """Over the look-up's classes followed by these."""


@dataclass(frozen=True)
class Envelope:
    """What stands in front of a value."""

    token: int
    address: str
    value: bytes
    dependencies: Dependencies | None = None

    def encode(self) -> bytes:
        address = self.address.encode()
        if len(address) > _U16_MAX:
            raise FormatError(f"the address has {len(address)} bytes; the limit is {_U16_MAX}")
        flags = 0 if self.dependencies is None else _HAS_DEPENDENCIES
        parts = [_HEAD.pack(MAGIC, VERSION, flags, self.token, len(address)), address]
        if self.dependencies is not None:
            count = len(self.dependencies.classes)
            if not 1 <= count <= _DEPENDENCIES_MAX:
                raise FormatError(f"{count} dependencies are outside 1 to {_DEPENDENCIES_MAX}")
            parts.append(struct.pack(">B", count))
            for name in self.dependencies.classes:
                raw = name.encode()
                if len(raw) > _U16_MAX:
                    raise FormatError(f"a dependency has {len(raw)} bytes; the limit is {_U16_MAX}")
                parts += [struct.pack(">H", len(raw)), raw]
            parts.append(struct.pack(">Q", self.dependencies.token))
        parts.append(self.value)
        return b"".join(parts)

    @classmethod
    def parse(cls, stored: bytes) -> Envelope | None:
        """The envelope, or None for bytes that a reader must treat as a miss."""
        try:
            magic, version, flags, token, length = _HEAD.unpack_from(stored)
            if magic != MAGIC or version != VERSION or flags & ~_HAS_DEPENDENCIES:
                return None
            at = _HEAD.size
            address, at = _take(stored, at, length)
            dependencies = None
            if flags & _HAS_DEPENDENCIES:
                count = stored[at]
                at += 1
                if count == 0:
                    return None
                classes = []
                for _ in range(count):
                    (length,) = struct.unpack_from(">H", stored, at)
                    name, at = _take(stored, at + 2, length)
                    classes.append(name.decode())
                (over,) = struct.unpack_from(">Q", stored, at)
                at += 8
                dependencies = Dependencies(tuple(classes), over)
            return cls(token, address.decode(), stored[at:], dependencies)
        except (struct.error, IndexError, UnicodeDecodeError):
            return None


def encode_page(items: Sequence[bytes]) -> bytes:
    for length in (len(items), *map(len, items)):
        if length > _U32_MAX:
            raise FormatError(
                f"{length} items, or bytes of one, are more than a page can tell; the limit is {_U32_MAX}"
            )
    parts = [struct.pack(">I", len(items))]
    for item in items:
        parts += [struct.pack(">I", len(item)), item]
    return b"".join(parts)


def decode_page(page: bytes) -> list[bytes] | None:
    """The items of a page, or None for bytes that are none."""
    try:
        (count,) = struct.unpack_from(">I", page)
        at, items = 4, []
        # An item takes four bytes at least: a count that lies ends this before it has taken much.
        for _ in range(count):
            (length,) = struct.unpack_from(">I", page, at)
            item, at = _take(page, at + 4, length)
            items.append(item)
        return items if at == len(page) else None
    except (struct.error, IndexError):
        return None


def page_address(address: str, size: int, index: int) -> str:
    return f"{address}~p{size}.{index}"


def _take(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    end = at + length
    if end > len(data):
        raise IndexError
    return data[at:end], end
