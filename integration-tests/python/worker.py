"""An application beside one sidecar, at the word of a judge: a line in says what to do, a line out what came of it.

    read 7        hit 12 | filled 12 | condemned 12 | bypassed 12     cart 7 as of version 12, and how it was read
    invalidate 7  reached | missed                                    receipt `all`

Carts lie in an SQLite file; what is cached of one is its version, eight bytes, highest first, as the judge's own readers write it.

    worker.py SOCKET CACHE_HOST:PORT SHOP
"""

import sqlite3
import sys

import grpc
from grapevine.v1 import types_pb2 as types

import cached
from memcached import Connection
from stubs import Stubs

READ_TIMEOUT_S = 0.5
# What a write may end with at a sidecar whose disk is full: it may have taken it, or has no room for it.
NOT_KNOWN = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.RESOURCE_EXHAUSTED}
# Sidecars are stopped beside it: then that is how a call ends, too.
cached.AWAY.add(grpc.StatusCode.DEADLINE_EXCEEDED)
# For a receipt, and for the call that brings it.
RECEIPT_TIMEOUT_S = 4
WRITE_TIMEOUT_S = 6


class Worker:
    def __init__(self, socket: str, cache: str, shop: str):
        self.reader, self.writer = Stubs(socket, READ_TIMEOUT_S), Stubs(socket, WRITE_TIMEOUT_S)
        host, port = cache.rsplit(":", 1)
        self.cache = Connection(int(port), host)
        self.shop = sqlite3.connect(shop, timeout=5, isolation_level=None)

    def version(self, cart: int) -> bytes:
        (version,) = self.shop.execute("SELECT version FROM carts WHERE id = ?", (cart,)).fetchone()
        return version.to_bytes(8, "big")

    def read(self, cart: int) -> str:
        def source():
            return self.version(cart)

        read = cached.read(self.reader, self.cache, f"cart::{cart}", f"cart/{cart}", source)
        return f"{read.how} {int.from_bytes(read.value, 'big')}"

    def invalidate(self, cart: int) -> str:
        options = {"receipt": types.RECEIPT_LEVEL_ALL, "timeout_ms": RECEIPT_TIMEOUT_S * 1_000}
        try:
            answer = cached.invalidate(self.writer, f"cart/{cart}", **options)
        except grpc.RpcError as error:
            assert error.code() in cached.AWAY | NOT_KNOWN, error
            return "missed"
        return "reached" if answer.receipt.satisfied else "missed"


def main() -> None:
    worker = Worker(*sys.argv[1:])
    work = {"read": worker.read, "invalidate": worker.invalidate}
    for line in sys.stdin:
        what, cart = line.split()
        print(work[what](int(cart)), flush=True)


if __name__ == "__main__":
    main()
