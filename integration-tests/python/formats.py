"""The formats of docs/formats.md and docs/formats-values.md, written from those pages alone."""

import base64
import struct
from dataclasses import dataclass, field

import xxhash

MAGIC = 0xC7
VERSION = 1
HAS_DEPENDENCIES = 1


def token_text(token: int) -> str:
    """A token as it stands in addresses: 11 characters."""
    return base64.urlsafe_b64encode(struct.pack(">Q", token)).rstrip(b"=").decode()


def page_address(address: str, size: int, index: int) -> str:
    return f"{address}~p{size}.{index}"


def versioned_address(address: str, token: int) -> str:
    return f"{address}~1{token_text(token)}"


def bucketed_address(address: str, class_path: str, buckets: int) -> str:
    bucket = xxhash.xxh3_64_intdigest(address.encode(), seed=0) % buckets
    return f"{class_path}~b{buckets}.{bucket}"


def hashed_address(address: str) -> str:
    digest = xxhash.xxh3_128_digest(address.encode(), seed=0)
    return "~h" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def digest_of_heads(*heads: tuple[int, int, int]) -> str:
    """What a sidecar has applied: runs with their heads of bumps and of registrations."""
    told = sorted(head for head in heads if head[1] or head[2])
    parts = (run.to_bytes(16, "big") + struct.pack(">QQ", *rest) for run, *rest in told)
    return xxhash.xxh3_128_hexdigest(b"".join(parts), seed=0)


def token_of_nothing_known(class_path: str, salt: bytes = bytes(16)) -> int:
    """The token of one class of which, like of all above it, no event is known."""

    def part(prefix: str) -> bytes:
        raw = prefix.encode()
        return struct.pack(">H", len(raw)) + raw + struct.pack(">II", 0, 0)

    segments = class_path.split("/")
    prefixes = ["*"] + ["/".join(segments[: n + 1]) for n in range(len(segments))]
    return xxhash.xxh3_64_intdigest(b"\x01" + salt + b"".join(map(part, prefixes)), seed=0) or 1


@dataclass
class Envelope:
    """What stands in front of a value at a fixed address."""

    token: int
    address: str
    value: bytes
    dependencies: list[str] = field(default_factory=list)
    dependency_token: int = 0

    def pack(self) -> bytes:
        address = self.address.encode()
        flags = HAS_DEPENDENCIES if self.dependencies else 0
        out = struct.pack(">BBBQH", MAGIC, VERSION, flags, self.token, len(address)) + address
        if self.dependencies:
            out += struct.pack(">B", len(self.dependencies))
            for name in self.dependencies:
                raw = name.encode()
                out += struct.pack(">H", len(raw)) + raw
            out += struct.pack(">Q", self.dependency_token)
        return out + self.value


def unpack_envelope(data: bytes) -> Envelope | None:
    """The envelope, or None for bytes that a reader must treat as a miss."""
    try:
        magic, version, flags, token, length = struct.unpack_from(">BBBQH", data)
        if magic != MAGIC or version != VERSION or flags & ~HAS_DEPENDENCIES:
            return None
        at = 13 + length
        if at > len(data):
            return None
        envelope = Envelope(token, data[13:at].decode(), b"")
        if flags & HAS_DEPENDENCIES:
            (count,) = struct.unpack_from(">B", data, at)
            at += 1
            for _ in range(count):
                (length,) = struct.unpack_from(">H", data, at)
                at += 2
                if at + length > len(data):
                    return None
                envelope.dependencies.append(data[at : at + length].decode())
                at += length
            (envelope.dependency_token,) = struct.unpack_from(">Q", data, at)
            at += 8
            if not envelope.dependencies:
                return None
        envelope.value = data[at:]
        return envelope
    except (struct.error, UnicodeDecodeError):
        return None


def store(wrapped: bool, envelope: Envelope) -> bytes:
    """What stands in the cache for a value; `wrapped` is `Resolution.envelope`."""
    if wrapped or envelope.dependencies or envelope.value[:1] == bytes([MAGIC]):
        return envelope.pack()
    return envelope.value


def load(wrapped: bool, token: int, address: str, stored: bytes) -> Envelope | None:
    """What stands in the cache, if a reader with this token may serve it: at once where it lists no dependencies. None is a
    miss."""
    if not wrapped and stored[:1] != bytes([MAGIC]):
        return Envelope(token, address, stored)
    envelope = unpack_envelope(stored)
    if envelope is None or envelope.token != token or envelope.address != address:
        return None
    return envelope


def pack_page(items: list[bytes]) -> bytes:
    return struct.pack(">I", len(items)) + b"".join(struct.pack(">I", len(item)) + item for item in items)


def unpack_page(data: bytes) -> list[bytes] | None:
    try:
        (count,) = struct.unpack_from(">I", data)
        at, items = 4, []
        for _ in range(count):
            (length,) = struct.unpack_from(">I", data, at)
            at += 4
            if at + length > len(data):
                return None
            items.append(data[at : at + length])
            at += length
        return items if at == len(data) else None
    except struct.error:
        return None
