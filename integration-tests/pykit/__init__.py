"""What tests in Python share: conditions with deadlines, ports, processes, sidecars, and the caches beside them.

`integration-tests` has to be in the path of whoever imports it: each `run.sh` sees to that, and the client's `pyproject.toml`.
How a sidecar is asked is not in here, for that takes stubs or a client: those who have one say it in a class of their own.
"""

from pykit.caches import Server, memcached, redis
from pykit.ports import free_ports
from pykit.processes import Process, outside
from pykit.sidecars import Cluster, Sidecar
from pykit.waiting import SOON_S, NotYet, eventually, eventually_async

__all__ = [
    "SOON_S",
    "Cluster",
    "NotYet",
    "Process",
    "Server",
    "Sidecar",
    "eventually",
    "eventually_async",
    "free_ports",
    "memcached",
    "outside",
    "redis",
]
