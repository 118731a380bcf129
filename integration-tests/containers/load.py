"""Calls at every ready sidecar without a pause, and whether they are answered, and not by what was invalidated."""

import collections
import itertools
import random
import threading
import time

import grpc
from grapevine.v1 import application_pb2, application_pb2_grpc, types_pb2

from kubelet import Inside, Kubelet

CLASSES = 16
RECEIPT_MS = 15_000
CALL_S = 20
# So that two cores have room for the sidecars.
PAUSE_S = 0.01


class Member:
    """A sidecar to call, as its applications reach it."""

    def __init__(self, kubelet: Kubelet):
        self.kubelet = kubelet
        self.name = kubelet.pod.name
        listen, _, port = kubelet.pod.container.env["GRAPEVINE_APP_TCP"].rpartition(":")
        self.inside = Inside(kubelet, int(port)) if listen == "127.0.0.1" else None
        place = f"unix:{self.inside.path}" if self.inside else f"{kubelet.pod.ip}:{port}"
        # Over a Unix socket grpcio sends the socket's path as authority, which HTTP/2 servers in Rust refuse.
        options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(place, options)
        self.app = application_pb2_grpc.ApplicationServiceStub(self.channel)
        self.joined = time.monotonic()
        # Until it was fresh for the first time it is a newcomer, whose reads are counted apart.
        self.fresh_after_s: float | None = None

    def close(self) -> None:
        self.channel.close()
        if self.inside:
            self.inside.close()


class Load:
    """Readers at every member, one writer that goes round, and the judge of what they are told.

    What `receipt all` has acknowledged is over: every token that anybody had been told before the invalidation was asked for is
    dead, at every sidecar that says that it is fresh. One that says that it is not may serve what it has, as the policy of these
    classes allows it to.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.seen = [set() for _ in range(CLASSES)]
        self.dead = [frozenset() for _ in range(CLASSES)]
        self.members: dict[str, Member] = {}
        self.readers: dict[str, threading.Thread] = {}
        self.failed: list[str] = []
        self.stale: list[str] = []
        self.unreached: list[str] = []
        self.counts = collections.Counter()
        self.stopped = threading.Event()
        self.writer = threading.Thread(target=self.write, daemon=True)

    def add(self, kubelet: Kubelet) -> None:
        member = Member(kubelet)
        self.members[member.name] = member
        self.readers[member.name] = threading.Thread(target=self.read, args=(member,), daemon=True)
        self.readers[member.name].start()
        if self.writer.ident is None:
            self.writer.start()

    def remove(self, kubelet: Kubelet) -> None:
        """After the pod has ended."""
        member = self.members.pop(kubelet.pod.name)
        self.readers.pop(member.name).join()
        member.close()

    def stop(self) -> None:
        self.stopped.set()
        for thread in [*self.readers.values(), self.writer]:
            if thread.ident is not None:
                thread.join()
        for member in self.members.values():
            member.close()

    def read(self, member: Member) -> None:
        kubelet = member.kubelet
        for number in itertools.count():
            if self.stopped.is_set() or self.members.get(member.name) is not member:
                return
            if not kubelet.ready:
                time.sleep(PAUSE_S)
                continue
            self.resolve(member, number % CLASSES)
            time.sleep(PAUSE_S)

    def resolve(self, member: Member, which: int) -> None:
        dead = self.dead[which]
        item = application_pb2.ResolveItem(address=f"load:{which}", classes=[f"load/{which}"])
        try:
            answer = member.app.Resolve(application_pb2.ResolveRequest(items=[item]), timeout=CALL_S)
        except grpc.RpcError as error:
            self.error(member, "resolve", error)
            return
        (result,) = answer.results
        fresh = answer.freshness == types_pb2.FRESHNESS_FRESH
        with self.lock:
            kind = "bypassed" if result.bypass else "fresh" if fresh else "unknown"
            if member.fresh_after_s is None and kind == "fresh":
                member.fresh_after_s = time.monotonic() - member.joined
            self.counts[kind if member.fresh_after_s is not None else f"{kind} at a newcomer"] += 1
            if result.bypass:
                return
            self.seen[which].add(result.token)
            if fresh:
                self.counts[f"fresh at {member.name}"] += 1
                if result.token in dead:
                    self.stale.append(f"{member.name}: {result.token:016x} of load/{which}")

    def error(self, member: Member, call: str, error: grpc.RpcError) -> None:
        with self.lock:
            # Killed with the call in its hands, of which nobody knows what became of it.
            if member.kubelet.killed:
                self.counts["cut off"] += 1
            else:
                self.failed.append(f"{member.name}: {call}: {error.code().name}: {error.details()}")

    def write(self) -> None:
        for number in itertools.count():
            if self.stopped.is_set():
                return
            ready = [member for member in list(self.members.values()) if member.kubelet.ready]
            if not ready:
                time.sleep(PAUSE_S)
                continue
            self.invalidate(random.choice(ready), number % CLASSES)
            time.sleep(PAUSE_S)

    def invalidate(self, member: Member, which: int) -> None:
        with self.lock:
            told = frozenset(self.seen[which])
        request = application_pb2.InvalidateRequest(
            classes=[f"load/{which}"], receipt=types_pb2.RECEIPT_LEVEL_ALL, timeout_ms=RECEIPT_MS
        )
        begun = time.monotonic()
        try:
            answer = member.app.Invalidate(request, timeout=CALL_S)
        except grpc.RpcError as error:
            self.error(member, "invalidate", error)
            return
        with self.lock:
            if answer.receipt.satisfied:
                self.counts["invalidated"] += 1
                self.dead[which] |= told
            else:
                self.unreached.append(
                    f"{member.name}: {time.monotonic() - begun:.1f} s: {answer.receipt.holders}".replace("\n", " ")
                )

    def judged(self) -> dict[str, int]:
        """What came of it so far; fails if anything was wrong."""
        with self.lock:
            told = dict(self.counts)
            assert not self.failed, (
                f"calls failed at ready sidecars: {self.failed[:5]} and {len(self.failed)} in all; {told}"
            )
            assert not self.stale, f"stale tokens: {self.stale[:5]} and {len(self.stale)} in all; {told}"
            assert not self.unreached, (
                f"receipts were not reached: {self.unreached[:3]} and {len(self.unreached)} in all; {told}"
            )
            return told

    def since(self, before: dict[str, int]) -> collections.Counter:
        with self.lock:
            return collections.Counter(self.counts) - collections.Counter(before)
