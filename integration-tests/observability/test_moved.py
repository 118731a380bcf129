"""Counters that rise where something happens that the load does not do: sidecars of their own, whose limits and leases are small,
and what is done to them. Prometheus does not look at them.

What no test here brings about is in `exceptions.yaml`, each with its reason.
"""

import contextlib
import itertools
import os
import queue
import shutil
import socket
import threading
from concurrent import futures

import grpc
import pytest
from grapevine.v1 import application_pb2 as app
from grapevine.v1 import explain_pb2 as explain
from grapevine.v1 import peer_pb2 as peer
from grapevine.v1 import peer_pb2_grpc

import cached
import pykit
import world as worlds
from moves import has_risen, rises, told
from pykit import NotYet, eventually, free_ports

POLICIES = (
    worlds.POLICIES
    + """
[[policy]]
pattern = "careful/**"
on_unknown = "bypass"
"""
)
LIMITS = [
    "--freshness-max-staleness", "1s", "--freshness-crash-timeout", "20s", "--gossip-suspect-after", "20s",
    "--lease-duration", "5s", "--store-log-bytes-max", "1MiB", "--limits-index-members-max", "1000",
    "--limits-queue-peer-urgent-max", "16", "--limits-queue-watch-max", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def three(world, tmp_path_factory):
    directory = tmp_path_factory.mktemp("moved")
    cluster = pykit.Cluster(worlds.Sidecar, directory, POLICIES, "--cache", world.cache.url, *LIMITS)
    try:
        cluster.wait_fresh(within=40)
        yield cluster.sidecars
    finally:
        # Nobody needs their drains.
        for sidecar in cluster.sidecars:
            sidecar.kill()
            sidecar.close()


@contextlib.contextmanager
def one_more(name: str, directory, *arguments: str, **variables: str):
    """Another sidecar, which is not waited for."""
    sidecar = worlds.Sidecar(name, directory, free_ports(worlds.Sidecar.PORTS), arguments, variables)
    try:
        yield sidecar
    finally:
        sidecar.kill()
        sidecar.close()


def answers(sidecar) -> bool | NotYet:
    sidecar.lives()
    try:
        sidecar.status()
    except grpc.RpcError as error:
        return NotYet(error)
    return True


def gossip_of(sidecar) -> str:
    return f"127.0.0.1:{sidecar.gossip_port}"


def test_sidecars_that_find_each_other(three):
    for sidecar in three:
        has_risen([sidecar], "peer_connects")
        has_risen([sidecar], "gossip_seed_rounds")


def test_a_fill_that_an_invalidation_overtakes(three):
    a = three[0]
    with rises([a], "fills_condemned", "registrations_condemned"):
        resolution, _ = cached.resolve(a, "late::1", "registered/late")
        a.invalidate("registered/late")
        verdict = cached.commit(a, resolution, resolution.targets[0].address, ["registered/late"])
        assert not verdict.accepted


def test_addresses_that_are_known_and_ones_that_are_not_in_the_cache(three):
    a = three[0]
    with rises([a], "registrations_suppressed"):
        # When they lapse is told in steps of 64 s: of three calls at most one begins another step.
        for _ in range(3):
            a.register(["known::1"], "registered/known")
    with rises([a], "purge_absent"):
        a.invalidate("registered/known")


def test_deletes_for_which_there_is_no_room(tmp_path_factory):
    directory = tmp_path_factory.mktemp("crowded")
    (directory / "grapevine.toml").write_text(POLICIES)
    # A cache that takes connections and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as cache:
        arguments = ["--config", str(directory / "grapevine.toml"), "--purge-queue-addresses-max", "1"]
        arguments += ["--cache", f"memcached://127.0.0.1:{cache.getsockname()[1]}?timeout=20s"]
        with one_more("crowded", directory, *arguments) as crowded:
            crowded.wait_fresh()
            for name in ("first", "second"):
                crowded.register([f"{name}::1"], f"registered/{name}")
            with rises([crowded], "purge_dropped"):
                for name in ("first", "second"):
                    crowded.invalidate(f"registered/{name}", timeout_ms=100)


def acquire(sidecar, address: str, class_path: str):
    """A turn to fill, or whatever is said instead: the stream of answers, which is to stay open."""
    resolution, _ = cached.resolve(sidecar, address, class_path)
    request = app.AcquireFillRequest(address=resolution.targets[0].address, token=resolution.token)
    return sidecar.app.AcquireFill(request, timeout=sidecar.timeout_s)


def test_turns_to_fill_that_are_not_given_and_not_used(three):
    a = three[0]
    before = told([a], ["fills_superseded"])

    def outlived():
        # The stream ends with the lease, too, and who is first is a matter of chance.
        turns = [acquire(a, f"elected::slow{number}", "elected/slow") for number in range(8)]
        assert all(next(turn).fill for turn in turns)
        assert all(not list(turn) for turn in turns)
        return told([a], before) != before

    with rises([a], "fills_put_off"):
        first = acquire(a, "elected::wanted", "elected/wanted")
        assert next(first).fill
        assert next(acquire(a, "elected::wanted", "elected/wanted")).turn == app.FILL_TURN_RETRY
    first.cancel()
    eventually(outlived, what="a turn ends with its lease")
    has_risen([a], *before, since=before)


def test_bumps_of_more_combinations_than_are_told_apart(three):
    a = three[0]
    with rises([a], "escalations"):
        for number in range(66):
            both = app.InvalidateRequest(classes=["both/a", f"both/b{number}"], match=app.MATCH_ALL)
            a.app.Invalidate(both, timeout=a.timeout_s)


def test_a_local_table_whose_client_is_silent(three):
    a = three[0]
    asks = queue.SimpleQueue()
    told_so = a.app.LocalTableStream(iter(asks.get, None), timeout=a.timeout_s)
    with rises([a], "tables_opened", "table_notices", "tables_lapsed"):
        assert next(told_so).opened.local_table
        asks.put(app.LocalTableStreamRequest(lease_request=1))
        assert next(told_so).lease.duration_us > 0
        a.app.Invalidate(app.InvalidateRequest(classes=["tabled"]), timeout=a.timeout_s)
        assert next(told_so).classes == ["tabled"]
        # It is not acknowledged, and no other lease is asked for.
        with pytest.raises(grpc.RpcError) as ended:
            next(told_so)
        assert ended.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    asks.put(None)


def test_a_watcher_that_falls_behind(three):
    a = three[0]
    watch = a.app.Watch(app.WatchRequest(classes=["watched"]), timeout=a.timeout_s)
    next(watch)

    before = told([a], ["watch_resyncs"])

    def behind():
        # All at once.
        calls = [a.app.Invalidate.future(app.InvalidateRequest(classes=["watched"])) for _ in range(100)]
        for call in calls:
            call.result(timeout=a.timeout_s)
        return told([a], before) != before

    eventually(behind, what="it falls behind")
    has_risen([a], *before, since=before)
    watch.cancel()


def leaf(category: int) -> app.IndexLeaf:
    value = explain.SqlValue(integer=category)
    where = [app.ColumnValue(column="category", value=value)]
    return app.IndexLeaf(table="items", equal=where, dialect=explain.SQL_DIALECT_SQLITE)


def right_to_load(sidecar, category: int) -> bytes:
    def right():
        answer = sidecar.app.IndexRead(app.IndexReadRequest(leaf=leaf(category)), timeout=sidecar.timeout_s)
        return next((turn.load for turn in answer.turns if turn.load), None) or NotYet(answer)

    return eventually(right, what=f"there is a right to load the leaf of {category}")


def fill_leaf(sidecar, category: int, load: bytes, count: int, more: bool = False) -> int:
    rows = [app.IndexRow(id=str(number)) for number in range(count)]
    request = app.IndexFillRequest(leaf=leaf(category), load=load, rows=rows, more=more)
    return sidecar.app.IndexFill(request, timeout=sidecar.timeout_s).outcome


def test_leaves_of_indices(three):
    a = three[0]
    with rises([a], "shapes_made_known"):
        load = right_to_load(a, 1)
    with rises([a], "leaves_loaded"):
        assert fill_leaf(a, 1, load, 600) == app.INDEX_FILL_OUTCOME_STORED
    with rises([a], "members_pruned"):
        found = a.app.IndexRead(app.IndexReadRequest(leaf=leaf(1), limit=1), timeout=a.timeout_s)
        places = [member.place for member in found.members]
        gone = app.IndexPruneRequest(leaf=leaf(1), evidence=found.evidence, places=places)
        assert a.app.IndexPrune(gone, timeout=a.timeout_s).removed == 1
    with rises([a], "leaves_evicted"):
        assert fill_leaf(a, 2, right_to_load(a, 2), 600) == app.INDEX_FILL_OUTCOME_STORED
    with rises([a], "leaves_condemned"):
        load = right_to_load(a, 3)
        unknown = app.InvalidateWhereRequest(
            sql="UPDATE items SET category = 3 WHERE price > 100", dialect=explain.SQL_DIALECT_SQLITE
        )
        a.app.InvalidateWhere(unknown, timeout=a.timeout_s)
        assert fill_leaf(a, 3, load, 1) == app.INDEX_FILL_OUTCOME_CONDEMNED
    with rises([a], "loads_displaced"):
        loads = {category: right_to_load(a, category) for category in (4, 5)}
        outcomes = {fill_leaf(a, category, load, 900, more=True) for category, load in loads.items()}
        outcomes |= {fill_leaf(a, category, load, 0) for category, load in loads.items()}
        assert app.INDEX_FILL_OUTCOME_OVER in outcomes
    with rises([a], "loads_refused"):
        # There is one right for each 16 members that there is room for. Nobody uses those that are given here.
        categories = itertools.count(100)

        def refused():
            request = app.IndexReadRequest(leaf=leaf(next(categories)))
            turns = a.app.IndexRead(request, timeout=a.timeout_s).turns
            return [(turn.load, turn.retry_after_ms) for turn in turns] == [(b"", 0)]

        assert any(refused() for _ in range(1_000))


def test_rows_of_more_writes_than_a_leaf_shows(three):
    a = three[0]
    assert fill_leaf(a, 6, right_to_load(a, 6), 1) == app.INDEX_FILL_OUTCOME_STORED
    with rises([a], "rows_not_shown"):
        # Of a leaf there is room for 512 rows, and a write has 32 of them at most.
        for number in range(17):
            rows = [
                app.RowChange(
                    table="items",
                    kind=app.ROW_CHANGE_KIND_INSERT,
                    new=leaf(6).equal,
                    id=f"{number}.{row}",
                )
                for row in range(32)
            ]
            request = app.BeginWriteRequest(changes=rows, dialect=explain.SQL_DIALECT_SQLITE)
            a.app.BeginWrite(request, timeout=a.timeout_s)


def begin_write(sidecar, class_path: str, lease_ms: int) -> None:
    request = app.BeginWriteRequest(classes=[class_path], lease_ms=lease_ms)
    sidecar.app.BeginWrite(request, timeout=sidecar.timeout_s)


def test_a_write_that_nobody_ends(three):
    a = three[0]
    with rises([a], "intents_expired"):
        begin_write(a, "written/forgotten", 200)


def test_datagrams_of_others_and_seeds_that_are_wrong(three, tmp_path_factory):
    a = three[0]
    with rises([a], "gossip_malformed_datagrams"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
        outside.sendto(b"no gossip", ("127.0.0.1", a.gossip_port))
    # From loopback nothing is sent to an address elsewhere: the system refuses it.
    seeds = f"{gossip_of(a)},no-such-host.invalid:1,192.0.2.1:9"
    config = tmp_path_factory.mktemp("stranger")
    (config / "grapevine.toml").write_text(POLICIES)
    arguments = ["--cluster", "another", "--seeds", seeds, "--expected-members", "2", "--limits-connections-max", "16"]
    arguments += ["--config", str(config / "grapevine.toml")]
    with one_more("stranger", config, *arguments) as stranger:
        with rises([a], "gossip_foreign_datagrams"):
            eventually(lambda: answers(stranger), what="it answers")
        has_risen([stranger], "gossip_seed_lookup_failures", "gossip_send_failures")
        with rises([stranger], "resolves_bypassed"):
            resolution, _ = cached.resolve(stranger, "unsure", "careful/a")
            assert resolution.bypass
        # They stay open until that was counted.
        with contextlib.ExitStack() as open_ones, rises([stranger], "connections_refused"):
            host, port = stranger.tcp.split(":")
            for _ in range(17):
                open_ones.enter_context(socket.create_connection((host, int(port))))


def test_two_of_one_name(three, tmp_path_factory):
    a, b, c = three
    before = told([b, c], ["peer_rejected"])
    with one_more("a", tmp_path_factory.mktemp("second"), "--seeds", gossip_of(b), "--expected-members", "3"):
        has_risen([b, c], "peer_rejected", since=before)
    a.wait_fresh()


def fill_log(sidecar, times: int) -> None:
    """With names so long that 40 times are a MiB: who has missed the first ones then finds them no more, one by one."""
    long = [f"unheard/{number}-{'x' * 180}" for number in range(200)]
    for _ in range(times):
        sidecar.invalidate(*long)


@contextlib.contextmanager
def hanging(sidecar):
    """While it stands still. Its peers keep their links to it for as long as `freshness.crash_timeout`."""
    sidecar.pause()
    try:
        yield
    finally:
        sidecar.resume()
    sidecar.wait_fresh()


def test_turns_for_which_a_member_that_hangs_would_be_asked(three):
    a, _, c = three
    with hanging(c), rises([a], "fills_unelected"):
        # Some of them are c's to give.
        turns = [acquire(a, f"elected::hung{number}", "elected/hung") for number in range(30)]
        assert all(next(turn).fill for turn in turns)
    for turn in turns:
        turn.cancel()


def test_a_member_that_hangs_and_misses_much(three):
    a, _, c = three
    before = told([a], ["pushes_dropped"])

    def overfull():
        # Some MiB are under way before anything waits. A link to one that is silent for too long is given up: then anew.
        with hanging(c):
            for _ in range(15):
                fill_log(a, 20)
                if told([a], before) != before:
                    return True
        return False

    eventually(overfull, within=60, what="there is no room for what c is to be told")
    has_risen([a], *before, since=before)


def test_a_member_that_dies_while_it_writes(three):
    a, b, c = three
    with rises([a, b], "intents_expired_for_others", "peer_links_broken"):
        begin_write(c, "written/short", 3_000)
        begin_write(c, "written/long", 60_000)
        c.kill()
    a.invalidate("missed/by-c")
    with rises([a, b], "pulls_served"):
        c.start()
        c.wait_fresh()
    has_risen([c], "pulls_sent", "intents_recovered")


def test_a_member_whose_disk_is_lost(three):
    a, b, c = three
    fill_log(a, 100)
    with rises([a, b], "snapshots_sent"):
        c.kill()
        shutil.rmtree(c.log.parent / c.name)
        c.start()
        c.wait_fresh()
    has_risen([c], "snapshots_requested", "snapshots_adopted")


class Collector:
    """It takes spans by OTLP, and looks at none."""

    def __init__(self):
        def export(request: bytes, _) -> bytes:
            # An answer without anything in it.
            return b""

        handlers = {"Export": grpc.unary_unary_rpc_method_handler(export)}
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
        self.endpoint = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def stop(self) -> None:
        self.server.stop(grace=None).wait()


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """A sidecar for itself that traces every call."""
    collector = Collector()
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_METRICS_EXPORTER": "none"}
    variables |= {"OTEL_TRACES_SAMPLER": "always_on", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    try:
        with one_more("traced", tmp_path_factory.mktemp("traced"), **variables) as sidecar:
            sidecar.wait_fresh()
            yield sidecar
    finally:
        collector.stop()


def test_spans_that_a_collector_takes(traced):
    with rises([traced], "spans_exported"):
        traced.invalidate("traced")


def test_more_traced_events_than_are_remembered(traced):
    with rises([traced], "traced_events_forgotten"):
        for _ in range(17):
            calls = [traced.app.Invalidate.future(app.InvalidateRequest(classes=["traced"])) for _ in range(256)]
            for call in calls:
                call.result(timeout=traced.timeout_s)


def test_what_a_peer_says_twice_and_what_it_says_wrongly(traced):
    run = os.urandom(16)
    hello = peer.Hello(
        cluster="grapevine", protocol=3, node_id="made-by-hand", incarnation=run, peer_address="127.0.0.1:1"
    )
    event = peer.BumpEvent(bump=peer.Bump(classes=["news"]))
    bumps = peer.BumpBatch(origin=run, first=1, events=[event], traces=[peer.EventTrace(trace_id=b"short")])
    told_all = threading.Event()

    def says(*messages: peer.ExchangeRequest):
        yield peer.ExchangeRequest(hello=hello)
        yield from messages
        # It does not hang up by itself.
        told_all.wait()

    place = traced.command[traced.command.index("--peer-listen") + 1]
    with grpc.insecure_channel(place) as channel:
        exchange = peer_pb2_grpc.PeerServiceStub(channel).Exchange
        try:
            with rises([traced], "bumps_remote", "events_duplicate", "peer_traces_malformed"):
                twice = exchange(says(*[peer.ExchangeRequest(bumps=bumps)] * 2))
                assert next(twice).welcome.node_id == "traced"
            with rises([traced], "peer_messages_refused", "peer_links_broken"):
                wrong = exchange(says(peer.ExchangeRequest(bumps=peer.BumpBatch(origin=run))))
                with pytest.raises(grpc.RpcError) as refused:
                    list(wrong)
                assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        finally:
            told_all.set()


def test_a_log_that_nobody_reads(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unread")
    log = directory / "unread.log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with one_more("unread", directory, "--log-filter", "trace") as unread:
            unread.wait_fresh()
            before = told([unread], ["log_lines_dropped"])

            def lost():
                unread.invalidate("said")
                return told([unread], before) != before

            eventually(lost, what="lines are dropped")
            has_risen([unread], *before, since=before)
    finally:
        os.close(reader)
