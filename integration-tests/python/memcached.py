"""As much of memcached's text protocol as a test needs."""

import socket


class Connection:
    """One connection; not for several threads at once."""

    def __init__(self, port: int, host: str = "127.0.0.1"):
        self.socket = socket.create_connection((host, port), timeout=10)
        self.file = self.socket.makefile("rb")

    def get(self, key: str) -> bytes | None:
        self.socket.sendall(f"get {key}\r\n".encode())
        line = self.file.readline()
        if line == b"END\r\n":
            return None
        kind, _, _, length = line.split()
        assert kind == b"VALUE", line
        data = self.file.read(int(length) + 2)[:-2]
        assert self.file.readline() == b"END\r\n"
        return data

    def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        seconds = max(1, ttl_ms // 1_000)
        self.socket.sendall(f"set {key} 0 {seconds} {len(value)}\r\n".encode() + value + b"\r\n")
        line = self.file.readline()
        assert line == b"STORED\r\n", line

    def close(self) -> None:
        self.file.close()
        self.socket.close()
