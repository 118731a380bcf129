"""How values become bytes and back.

What a read gives is always what the codec decodes, on a fill as on a hit: a tuple that JSON makes a list of is a list from
the first read on, and not only from the second.
"""

from __future__ import annotations

import json
import pickle
from typing import Any, Protocol


class Codec(Protocol):
    """Turns values into bytes and back."""

    name: str

    def dumps(self, value: Any) -> bytes: ...
    def loads(self, data: bytes) -> Any: ...


class JsonCodec:
    """UTF-8 JSON, the default. Refuses NaN and what JSON does not know."""

    name = "json"

    def dumps(self, value: Any) -> bytes:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


class BytesCodec:
    """Values that are bytes already."""

    name = "bytes"

    def dumps(self, value: Any) -> bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(f"a {type(value).__name__} is not bytes")
        return bytes(value)

    def loads(self, data: bytes) -> Any:
        return data


class PickleCodec:
    """Any Python object. Whoever can write to the cache can run code here: only for a cache that nobody else writes to."""

    name = "pickle"

    def __init__(self, protocol: int = pickle.HIGHEST_PROTOCOL) -> None:
        self._protocol = protocol

    def dumps(self, value: Any) -> bytes:
        return pickle.dumps(value, self._protocol)

    def loads(self, data: bytes) -> Any:
        return pickle.loads(data)
