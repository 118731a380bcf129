"""How the core waits: by blocking a thread, or by suspending a task.

All that decides anything in this package is written once, as coroutines over an `Io`. A `Client` runs them with `BlockingIo`, whose
coroutines never suspend: `run` sends once and has the result. An `AsyncClient` awaits the same ones with `AsyncioIo`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, Protocol, TypeVar

import grpc

T = TypeVar("T")
Metadata = tuple[tuple[str, str], ...]


class Waiter(Protocol):
    """Something that one party waits for and another one ends."""

    async def wait(self) -> None: ...
    def wake(self) -> None: ...


class Stream(Protocol):
    """A stream of answers."""

    async def read(self, timeout_s: float | None = None) -> Any:
        """The next message, or None at the end. Raises TimeoutError, after which the stream is of no use."""

    def cancel(self) -> None: ...


class Channels(NamedTuple):
    """The way to a sidecar: for calls with one answer, and for streams."""

    calls: Any
    streams: Any


class Spawned(Protocol):
    """Work that nobody has to wait for."""

    @property
    def done(self) -> bool: ...
    async def wait(self, timeout_s: float) -> None:
        """Until it is done, or for so long."""


class Io(Protocol):
    """What the core needs of its surroundings."""

    revalidations_max: int

    def owner(self) -> object:
        """Whose a channel is: another owner must not use it."""

    def channels(self, target: str, options: list[tuple[str, Any]]) -> Channels: ...
    async def unary(self, method: Any, request: Any, timeout_s: float, metadata: Metadata) -> Any: ...
    def stream(self, method: Any, request: Any) -> Stream: ...
    async def close(self, channels: Channels) -> None: ...
    def waiter(self) -> Waiter: ...
    def caller(self) -> object:
        """Who is calling: the thread or the task."""

    async def sleep(self, seconds: float) -> None: ...
    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Spawned: ...


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never suspends."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    work.close()
    raise RuntimeError("invariant: blocking coroutines do not suspend")


class _Event:
    def __init__(self) -> None:
        self._event = threading.Event()

    async def wait(self) -> None:
        self._event.wait()

    def wake(self) -> None:
        self._event.set()


class _BlockingStream:
    def __init__(self, call: Any) -> None:
        self._call = call
        self._expired = False

    async def read(self, timeout_s: float | None = None) -> Any:
        # A stream's own deadline would end the whole stream: only this read has one.
        timer = None if timeout_s is None else threading.Timer(timeout_s, self._expire)
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            return next(self._call, None)
        except grpc.RpcError:
            if self._expired:
                raise TimeoutError from None
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self) -> None:
        self._expired = True
        self._call.cancel()

    def cancel(self) -> None:
        self._call.cancel()


def _trace_context() -> Metadata:
    """The caller's trace context as OpenTelemetry's propagators write it: `traceparent`, unless others are configured."""
    try:
        from opentelemetry import propagate
    except ImportError:
        # Whoever instruments gRPC is somebody else.
        return ()
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    # Names of metadata have no capitals.
    return tuple((name.lower(), value) for name, value in carrier.items())


class _SpawnedThread:
    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    async def wait(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)


class BlockingIo:
    """Blocks the calling thread."""

    # Each takes a thread.
    revalidations_max = 16

    def __init__(self) -> None:
        self._instrumented = False

    def owner(self) -> object:
        # A channel does not survive a fork: the child makes its own.
        return os.getpid()

    def channels(self, target: str, options: list[tuple[str, Any]]) -> Channels:
        calls = grpc.insecure_channel(target, options)
        # OpenTelemetry's instrumentation, and others, wrap that function. What they make of a stream is a generator, which no other
        # thread can end, and whose span is the caller's current one between two messages. So streams go beside it, and are given
        # here what it would have had them carry.
        plain = inspect.unwrap(grpc.insecure_channel)
        self._instrumented = plain is not grpc.insecure_channel
        return Channels(calls, plain(target, options) if self._instrumented else calls)

    async def unary(self, method: Any, request: Any, timeout_s: float, metadata: Metadata) -> Any:
        return method(request, timeout=timeout_s, metadata=metadata or None)

    def stream(self, method: Any, request: Any) -> Stream:
        metadata = _trace_context() if self._instrumented else ()
        return _BlockingStream(method(request, metadata=metadata or None))

    async def close(self, channels: Channels) -> None:
        channels.calls.close()
        channels.streams.close()

    def waiter(self) -> Waiter:
        return _Event()

    def caller(self) -> object:
        return threading.get_ident()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - it runs in a thread that is to wait

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Spawned:
        thread = threading.Thread(target=run, args=(work,), name=f"grapevine-{name}", daemon=True)
        thread.start()
        return _SpawnedThread(thread)


class _AsyncEvent:
    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def wake(self) -> None:
        self._event.set()


class _AsyncioStream:
    def __init__(self, call: Any) -> None:
        self._call = call
        self._cancelled = False

    async def read(self, timeout_s: float | None = None) -> Any:
        try:
            message = await asyncio.wait_for(self._call.read(), timeout_s)
        except asyncio.TimeoutError:
            self._call.cancel()
            raise TimeoutError from None
        except asyncio.CancelledError:
            # So says grpcio of a call that another task cancelled, and asyncio of this task, which Python 3.10 does not tell apart.
            cancelling = getattr(asyncio.current_task(), "cancelling", None)
            if self._cancelled and not (cancelling and cancelling()):
                return None
            raise
        return None if message is grpc.aio.EOF else message

    def cancel(self) -> None:
        self._cancelled = True
        self._call.cancel()


class _SpawnedTask:
    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    @property
    def done(self) -> bool:
        return self._task.done()

    async def wait(self, timeout_s: float) -> None:
        await asyncio.wait({self._task}, timeout=timeout_s)


class AsyncioIo:
    """Suspends the calling task."""

    revalidations_max = 256

    def __init__(self) -> None:
        # The loop itself holds tasks weakly.
        self._spawned: set[asyncio.Task[None]] = set()

    def owner(self) -> object:
        return asyncio.get_running_loop()

    def channels(self, target: str, options: list[tuple[str, Any]]) -> Channels:
        channel = grpc.aio.insecure_channel(target, options)
        return Channels(channel, channel)

    async def unary(self, method: Any, request: Any, timeout_s: float, metadata: Metadata) -> Any:
        return await method(request, timeout=timeout_s, metadata=metadata or None)

    def stream(self, method: Any, request: Any) -> Stream:
        return _AsyncioStream(method(request))

    async def close(self, channels: Channels) -> None:
        for task in list(self._spawned):
            task.cancel()
        await channels.calls.close()

    def waiter(self) -> Waiter:
        return _AsyncEvent()

    def caller(self) -> object:
        return asyncio.current_task()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Spawned:
        task = asyncio.get_running_loop().create_task(work, name=f"grapevine-{name}")
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)
        return _SpawnedTask(task)


Clock = Callable[[], float]
