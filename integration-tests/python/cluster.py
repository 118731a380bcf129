"""Sidecars as processes of their own, and their stubs."""

import grpc
from grapevine.v1 import admin_pb2, types_pb2

import pykit
from stubs import CALL_TIMEOUT_S, Stubs

POLICIES = """
[[policy]]
pattern = "registered/**"
strategy = "registered"
ttl = "5m"

[[policy]]
pattern = "bucketed/**"
strategy = "bucketed(8)"

[[policy]]
pattern = "lapsing/**"
strategy = "ttl"
ttl = "2s"
jitter = "0%"

[[policy]]
pattern = "lagging/**"
source_lag = "1m"

[[policy]]
pattern = "lagging-primary/**"
source_lag = "1m"
on_source_lag = "primary"

[[policy]]
pattern = "paged/**"
paging = 20

[[policy]]
pattern = "long/**"
long_address = "hash"
"""


class Sidecar(pykit.Sidecar, Stubs):
    """One sidecar: its process, and the stubs of its services."""

    def __init__(self, *place, **more):
        pykit.Sidecar.__init__(self, *place, **more)
        Stubs.__init__(self, self.socket)

    def status(self):
        return self.admin.Status(admin_pb2.StatusRequest(), timeout=CALL_TIMEOUT_S)

    def members(self):
        return self.admin.Members(admin_pb2.MembersRequest(), timeout=CALL_TIMEOUT_S).members

    def why_not_fresh(self) -> str | None:
        try:
            status = self.status()
        except grpc.RpcError as error:
            return str(error)
        return None if status.freshness == types_pb2.FRESHNESS_FRESH else status.freshness_reason

    def close(self) -> None:
        self.channel.close()
        super().close()
