"""An application that uses OpenTelemetry's instrumentation of gRPC: its calls carry `traceparent`, and nothing else changes. The
judge is what a real sidecar exports: its spans have the trace id of the application's."""

from __future__ import annotations

import asyncio
import functools
import pathlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider

import cluster as kit
from cluster import Sidecar
from grapevine_client import (
    AsyncClient,
    Client,
    How,
    InvalidRequest,
    NoSidecar,
    Session,
    SessionBehind,
    Settings,
    WatchBump,
    WatchLost,
    WatchResync,
    WatchStarted,
    use_session,
)
from pykit import SOON_S, eventually, eventually_async

SETTINGS = Settings(resolve_deadline_s=5, commit_deadline_s=5, turn_deadline_s=5, report_every_s=None)
SERVICE = "grapevine.v1.ApplicationService"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans by OTLP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def has(self, method: str, trace_id: int) -> bool:
        """Whether a sidecar has told of this call in this trace, as the child of a span."""
        name, of = f"{SERVICE}/{method}", trace_id.to_bytes(16, "big")
        return any((each.name, each.trace_id) == (name, of) and each.parent_span_id for each in self.spans)


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, str]]:
    with ThreadPoolExecutor(2) as threads:
        server, collector = grpc.server(threads), Collector()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield collector, f"http://127.0.0.1:{port}"
        server.stop(None).wait()


def traced(endpoint: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        # Only what callers sample: everything else that the tests ask would be spans, too.
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, collector: tuple[Collector, str]) -> Iterator[Sidecar]:
    with kit.alone(tmp_path_factory.mktemp("t"), traced(collector[1])) as sidecar:
        yield sidecar


@pytest.fixture(scope="module")
def tracer() -> trace.Tracer:
    # The instrumentation of `Client` takes the process's; no other test makes spans.
    trace.set_tracer_provider(TracerProvider())
    return trace.get_tracer("application")


@pytest.fixture
def instrumented(tracer: trace.Tracer) -> Iterator[None]:
    instrumentors = [GrpcInstrumentorClient(), GrpcAioInstrumentorClient()]
    for each in instrumentors:
        each.instrument()
    try:
        yield
    finally:
        for each in instrumentors:
            each.uninstrument()


def id_of(span: trace.Span) -> int:
    return span.get_span_context().trace_id


def ahead_of(token: bytes) -> Session:
    """A session that has seen what the sidecar has not come to yet."""
    session = Session(wait_s=0.01)
    session.add(token[:-8] + (int.from_bytes(token[-8:], "big") + 1_000).to_bytes(8, "big"))
    return session


def children_arrive(collector: Collector, span: trace.Span, *methods: str) -> None:
    for method in methods:
        eventually(
            lambda m=method: collector.has(m, id_of(span)),
            what=f"the sidecar's span of {method} in the application's trace",
        )


@pytest.mark.usefixtures("instrumented")
def test_calls_of_threads_carry_the_trace(
    sidecar: Sidecar, collector: tuple[Collector, str], tracer: trace.Tracer, n: int
) -> None:
    with Client(sidecar.tcp, cache="memory://", settings=SETTINGS) as client:
        client.wait_until_ready()
        with tracer.start_as_current_span("request") as first:
            client.get_or_fill(f"a::{n}", [f"registered/{n}"], lambda: 1)
            outcome = client.invalidate([f"registered/{n}"])
        with tracer.start_as_current_span("another") as other:
            with client.begin_write([f"cart/{n}"]):
                pass
            # What the client itself says in metadata goes along.
            with pytest.raises(NoSidecar) as refused, use_session(ahead_of(outcome.session_token)):
                client.begin_write([f"cart/{n}"]).begin()
            assert isinstance(refused.value.attempts[0], SessionBehind)
        children_arrive(collector[0], first, "Resolve", "CommitFill", "Invalidate")
        children_arrive(collector[0], other, "BeginWrite", "CommitWrite")
        assert not collector[0].has("Invalidate", id_of(other))
        # Errors keep their details.
        with pytest.raises(InvalidRequest, match="the limit is 250") as caught:
            client.resolve("a" * 250, [f"cart/{n}"])
        assert caught.value.violations[0].field == "address"


@pytest.mark.usefixtures("instrumented")
def test_streams_of_threads_can_still_be_ended(
    sidecar: Sidecar, collector: tuple[Collector, str], tracer: trace.Tracer, n: int
) -> None:
    """And carry the trace. The instrumentation makes generators of streams, which nobody can cancel, and keeps its span current
    between two messages."""
    with Client(sidecar.tcp, cache="memory://", settings=SETTINGS) as client:
        client.wait_until_ready()
        with tracer.start_as_current_span("request") as span:
            address, classes = f"e::{n}", [f"elected/{n}"]
            current = []
            filled = client.get_or_fill_outcome(address, classes, lambda: current.append(trace.get_current_span()) or 1)
            assert (filled.how, filled.stored, client.stats().turn_failures) == (How.FILLED, True, 0)
            assert current == [span]
            watch = client.watch([f"elected/{n}"])
            assert isinstance(next(watch), WatchStarted)
            assert trace.get_current_span() is span
            client.invalidate(classes)
            assert isinstance(next(watch), WatchBump)
        ended = threading.Thread(target=lambda: list(watch))
        ended.start()
        watch.close()
        ended.join(SOON_S)
        assert not ended.is_alive()
        # They carry the trace like other calls: of a watch the sidecar tells when it has ended.
        children_arrive(collector[0], span, "Resolve", "AcquireFill", "Invalidate", "Watch")


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("waits", ["thread", "task"])
def test_a_watch_that_connects_anew_is_part_of_the_trace_of_who_waits_then(
    tmp_path: pathlib.Path, collector: tuple[Collector, str], tracer: trace.Tracer, waits: str
) -> None:
    async def tasks(own: Sidecar) -> trace.Span:
        async with AsyncClient(own.tcp) as client, client.watch() as watch:
            with tracer.start_as_current_span("first"):
                assert isinstance(await watch.__anext__(), WatchStarted)
            own.kill()
            with tracer.start_as_current_span("second") as span:
                assert isinstance(await watch.__anext__(), WatchLost)
                own.start()
                assert isinstance(await watch.__anext__(), WatchResync)
        return span

    def thread(own: Sidecar) -> trace.Span:
        with Client(own.tcp) as client, client.watch() as watch:
            with tracer.start_as_current_span("first"):
                assert isinstance(next(watch), WatchStarted)
            own.kill()
            with tracer.start_as_current_span("second") as span:
                assert isinstance(next(watch), WatchLost)
                own.start()
                assert isinstance(next(watch), WatchResync)
        return span

    with kit.alone(tmp_path, traced(collector[1])) as own:
        span = asyncio.run(asyncio.wait_for(tasks(own), 120)) if waits == "task" else thread(own)
        children_arrive(collector[0], span, "Watch")


def test_streams_carry_no_trace_where_calls_carry_none(
    sidecar: Sidecar, collector: tuple[Collector, str], tracer: trace.Tracer, request: pytest.FixtureRequest
) -> None:
    with tracer.start_as_current_span("request") as span:
        with Client(sidecar.tcp, settings=SETTINGS) as client, client.watch() as watch:
            assert isinstance(next(watch), WatchStarted)
            client.invalidate(["cart/1"])
        request.getfixturevalue("instrumented")
        with Client(sidecar.tcp, settings=SETTINGS) as client:
            client.resolve("a", ["cart/1"])
    # Exported in the order in which they ended: it is behind the others.
    children_arrive(collector[0], span, "Resolve")
    assert not collector[0].has("Invalidate", id_of(span))
    assert not collector[0].has("Watch", id_of(span))


@pytest.mark.usefixtures("instrumented")
def test_a_propagator_may_write_names_with_capitals(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagate, "inject", lambda carrier: carrier.update({"X-Amzn-Trace-Id": "Root=1"}))
    heard: list[Any] = []
    with Client(sidecar.tcp, settings=SETTINGS) as client, client.watch() as watch:
        # gRPC refuses a name with capitals, and the watch would try anew for ever.
        threading.Thread(target=lambda: heard.extend(watch)).start()
        eventually(lambda: heard and isinstance(heard[0], WatchStarted), within=10, what="the watch begins")


def test_streams_work_where_somebody_else_instruments_calls(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = grpc.insecure_channel
    monkeypatch.setattr(grpc, "insecure_channel", functools.wraps(plain)(lambda *given: plain(*given)))
    # As where it is not installed.
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with Client(sidecar.tcp, settings=SETTINGS) as client, client.watch() as watch:
        assert isinstance(next(watch), WatchStarted)


@pytest.mark.usefixtures("instrumented")
def test_a_stream_without_an_answer_is_found_out(sidecar: Sidecar) -> None:
    with Client(sidecar.tcp, settings=Settings(call_deadline_s=0.2)) as client:
        sidecar.pause()
        watch = client.watch()
        rest = threading.Thread(target=lambda: list(watch))
        try:
            rest.start()
            eventually(lambda: watch._core._failures > 0, what="it tries anew")
            watch.close()
        finally:
            sidecar.resume()
        rest.join(SOON_S)
        assert not rest.is_alive()


@pytest.mark.usefixtures("instrumented")
def test_calls_of_tasks_carry_the_trace(
    sidecar: Sidecar, collector: tuple[Collector, str], tracer: trace.Tracer, n: int
) -> None:
    async def one() -> int:
        return 1

    async def run() -> trace.Span:
        async with AsyncClient(sidecar.tcp, cache="memory://", settings=SETTINGS) as client:
            await client.wait_until_ready()
            with tracer.start_as_current_span("request") as span:
                address, classes = f"e::{n}", [f"elected/{n}"]
                filled = await client.get_or_fill_outcome(address, classes, one)
                assert (filled.how, filled.stored, client.stats().turn_failures) == (How.FILLED, True, 0)
                await client.get_or_fill(f"r::{n}", [f"registered/{n}"], one)
                watch = client.watch(classes)
                assert isinstance(await watch.__anext__(), WatchStarted)
                outcome = await client.invalidate(classes)
                assert isinstance(await watch.__anext__(), WatchBump)
                ended = asyncio.create_task(watch.__anext__())
                await asyncio.sleep(0)
                watch.close()
                with pytest.raises(StopAsyncIteration):
                    await ended
                async with client.begin_write([f"cart/{n}"]):
                    pass
                with pytest.raises(NoSidecar) as refused:
                    await client.begin_write([f"cart/{n}"], session=ahead_of(outcome.session_token)).begin()
                assert isinstance(refused.value.attempts[0], SessionBehind)
                with pytest.raises(InvalidRequest, match="the limit is 250") as caught:
                    await client.resolve("a" * 250, [f"cart/{n}"])
                assert caught.value.violations[0].field == "address"
        return span

    span = asyncio.run(asyncio.wait_for(run(), 120))
    calls = ("Resolve", "CommitFill", "Invalidate", "BeginWrite", "CommitWrite")
    children_arrive(collector[0], span, *calls, "AcquireFill", "Watch")


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("waits", ["thread", "task"])
def test_a_report_is_no_part_of_the_trace_of_the_read_that_sent_it(
    sidecar: Sidecar, collector: tuple[Collector, str], tracer: trace.Tracer, waits: str
) -> None:
    settings = Settings(resolve_deadline_s=5, report_every_s=0.001)

    def hits() -> int:
        return sidecar.counters()["client_hits"]

    async def one() -> int:
        return 1

    async def tasks() -> trace.Span:
        async with AsyncClient(sidecar.tcp, cache="memory://", settings=settings) as client:
            await client.wait_until_ready()
            with tracer.start_as_current_span("request") as span:
                before = hits()

                async def told() -> bool:
                    await client.get_or_fill("a", ["cart/1"], one)
                    return hits() > before + 3

                await eventually_async(told, what="hits are told")
                await client.invalidate(["cart/1"])
        return span

    if waits == "task":
        span = asyncio.run(asyncio.wait_for(tasks(), 120))
    else:
        with (
            Client(sidecar.tcp, cache="memory://", settings=settings) as client,
            tracer.start_as_current_span("r") as span,
        ):
            before = hits()
            eventually(
                lambda: client.get_or_fill("a", ["cart/1"], lambda: 1) and hits() > before + 3, what="hits are told"
            )
            client.invalidate(["cart/1"])
    # Exported in the order in which they ended: the last one is behind all reports.
    children_arrive(collector[0], span, "Resolve", "Invalidate")
    assert not collector[0].has("ReportReads", id_of(span))
