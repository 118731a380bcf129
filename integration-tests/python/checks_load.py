"""Many threads at three sidecars, judged by a counter per key: a read begun after an invalidation with receipt `all` was
answered must not give an older count. Once in peace, once with a sidecar killed and started again meanwhile."""

import random
import threading
import time

import grpc
from grapevine.v1 import types_pb2 as types

from cached import invalidate, read, resolve
from pykit import eventually

FAMILIES = ("load", "registered", "bucketed")


class Judge:
    """The source, what of it was acknowledged, and what readers saw."""

    def __init__(self, world, run: str):
        self.world = world
        # Keys of its own: the cache still has the values of others.
        names = [f"{family}/{run}-{number}" for family in FAMILIES for number in range(8)]
        self.keys = [(name.replace("/", "::"), name) for name in names]
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.source = dict.fromkeys(self.keys, 0)
        self.acknowledged = dict.fromkeys(self.keys, 0)
        self.how = {}
        self.writes = 0
        self.stale = []
        self.errors = []

    def reader(self, seed: int) -> None:
        draw, cache = random.Random(seed), self.world.cache()
        while not self.stop.is_set():
            key = draw.choice(self.keys)
            least = self.acknowledged[key]
            seen = read(draw.choice(self.world.sidecars), cache, *key, lambda key=key: str(self.source[key]).encode())
            with self.lock:
                self.how[seen.how] = self.how.get(seen.how, 0) + 1
                if int(seen.value) < least:
                    self.stale.append((key, seen, least))

    def writer(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self.stop.is_set():
            key = draw.choice(self.keys)
            with self.lock:
                self.source[key] += 1
                count = self.source[key]
            # A sidecar that is gone: another one takes the invalidation.
            for sidecar in draw.sample(self.world.sidecars, 3):
                try:
                    options = {"receipt": types.RECEIPT_LEVEL_ALL, "timeout_ms": 15_000}
                    answer = invalidate(sidecar, key[1], **options)
                except grpc.RpcError as error:
                    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                        continue
                    raise
                if answer.receipt.satisfied:
                    with self.lock:
                        self.acknowledged[key] = max(self.acknowledged[key], count)
                        self.writes += 1
                break
            time.sleep(0.005)

    def run(self, meanwhile) -> None:
        def guarded(work, seed):
            try:
                work(seed)
            except Exception as error:  # whatever it is, the check fails with it
                self.errors.append(repr(error))
                self.stop.set()

        jobs = [(self.reader, seed) for seed in range(6)] + [(self.writer, seed) for seed in range(100, 103)]
        threads = [threading.Thread(target=guarded, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        try:
            meanwhile()
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
        assert not self.errors, self.errors[:3]
        assert not self.stale, f"{len(self.stale)} stale reads: {self.stale[:3]}"
        print(f"      {self.writes} writes, reads: {self.how}")

    def until(self, reads: int, writes: int):
        """Waits until so much has happened from now on."""
        with self.lock:
            reads_then, writes_then = sum(self.how.values()) + reads, self.writes + writes
        eventually(
            lambda: self.errors or (sum(self.how.values()) >= reads_then and self.writes >= writes_then),
            within=60,
            what="enough was read and written",
        )


def check_g7_no_stale_read_from_many_threads(world):
    judge = Judge(world, "peace")
    judge.run(lambda: judge.until(reads=4_000, writes=150))
    total = sum(judge.how.values())
    # Safe is easy where nothing is ever served.
    assert judge.how.get("hit", 0) > 0.2 * total, judge.how
    assert judge.how.get("bypassed", 0) < 0.05 * total, judge.how


def check_g7_no_stale_read_while_a_sidecar_is_killed_and_comes_back(world):
    judge, victim = Judge(world, "killed"), world.sidecars[2]

    def meanwhile():
        judge.until(reads=500, writes=30)
        victim.kill()
        judge.until(reads=500, writes=3)
        victim.start()
        eventually(victim.is_fresh, within=40, what="it is fresh again")
        judge.until(reads=500, writes=30)

    judge.run(meanwhile)
    settled(world, [class_path for _, class_path in judge.keys])
    cache = world.cache()
    for key in judge.keys:
        for sidecar in world.sidecars:
            seen = read(sidecar, cache, *key, lambda key=key: str(judge.source[key]).encode())
            assert int(seen.value) == judge.source[key], (sidecar.name, key, seen, judge.source[key])


def settled(world, classes):
    """Every sidecar is fresh, has all events, and all give the same tokens."""
    world.cluster.wait_fresh()
    for sidecar in world.sidecars:
        eventually(lambda sidecar=sidecar: sidecar.status().missing_events == 0, what=f"{sidecar.name} has everything")
    for class_path in classes:

        def same(class_path=class_path):
            return len({resolve(sidecar, "x", class_path)[0].token for sidecar in world.sidecars}) == 1

        eventually(same, what=f"one token of {class_path}")


def check_g1_nothing_acknowledged_is_lost_with_its_sidecar(world):
    victim, others = world.sidecars[1], [world.sidecars[0], world.sidecars[2]]
    classes = [f"durable/{number}" for number in range(400)]
    before = {name: resolve(others[0], "x", name)[0].token for name in classes}
    acknowledged, enough = [], threading.Event()

    def write():
        for name in classes:
            try:
                invalidate(victim, name, receipt=types.RECEIPT_LEVEL_ONE)
            except grpc.RpcError as error:
                assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error
                return
            acknowledged.append(name)
            if len(acknowledged) == 50:
                enough.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert enough.wait(30), "it does not acknowledge"
    victim.kill()
    thread.join()
    for name in acknowledged:
        for other in others:

            def known(other=other, name=name):
                return resolve(other, "x", name)[0].token != before[name]

            eventually(known, what=f"{other.name} knows that {name} changed")
    victim.start()
    settled(world, acknowledged)
    for name in acknowledged:
        assert resolve(victim, "x", name)[0].token == resolve(others[0], "x", name)[0].token != before[name]
    print(f"      {len(acknowledged)} acknowledged before the kill")


CHECKS = [check_g1_nothing_acknowledged_is_lost_with_its_sidecar]
CHECKS_WITH_MEMCACHED = [
    check_g7_no_stale_read_from_many_threads,
    check_g7_no_stale_read_while_a_sidecar_is_killed_and_comes_back,
]
