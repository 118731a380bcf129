"""The services of a sidecar, by stubs that `run.sh` has generated."""

import grpc
from grapevine.v1 import admin_pb2_grpc, application_pb2_grpc

CALL_TIMEOUT_S = 20


class Stubs:
    """The services of a sidecar that listens on a Unix socket, and how long a call may take."""

    def __init__(self, path, timeout_s: float = CALL_TIMEOUT_S):
        # A channel of its own per sidecar: equal ones would share a connection, and its backoff.
        options = [
            # Over a Unix socket grpcio sends the socket's path as authority, which HTTP/2 servers in Rust refuse.
            ("grpc.default_authority", "localhost"),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ]
        self.timeout_s = timeout_s
        self.channel = grpc.insecure_channel(f"unix:{path}", options)
        self.app = application_pb2_grpc.ApplicationServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)
