"""One sidecar: where it is, the channel to it, and calls with deadlines.

A `Link` connects at its first call; grpcio connects again after the connection broke. What a call found out about the sidecar
goes to the link's gate, which decides when the next look-up may try. gRPC statuses are read in one place, `read_error`: field
violations and retry delays come from the `google.rpc` details.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.rpc import error_details_pb2, status_pb2

from grapevine_client._forks import Locked
from grapevine_client._io import Channels, Io, Metadata, Stream
from grapevine_client._stubs.grapevine.v1.admin_pb2_grpc import AdminServiceStub
from grapevine_client._stubs.grapevine.v1.application_pb2_grpc import ApplicationServiceStub
from grapevine_client._trouble import Series
from grapevine_client.errors import (
    Broken,
    CallError,
    ConfigError,
    GaveUp,
    GrapevineError,
    InvalidRequest,
    NoAnswer,
    Overloaded,
    Refused,
    SessionBehind,
    Unreachable,
    Violation,
)
from grapevine_client.gate import Gate
from grapevine_client.names import shorten
from grapevine_client.settings import Settings

_ANSWER_BYTES_MAX = 32 << 20
_METADATA_BYTES_MAX = 16 << 10
_DETAILS_KEY = "grpc-status-details-bin"

_OPTIONS: list[tuple[str, Any]] = [
    # Over a Unix socket grpcio sends the socket's path as authority, which HTTP/2 servers in Rust refuse.
    ("grpc.default_authority", "localhost"),
    # Clients of one process do not share a connection, nor its backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # The gate decides when to try again: the channel's own backoff must not be what keeps a sidecar that is back waiting.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    # By its name a pause; what it sets is how long connecting may take.
    ("grpc.min_reconnect_backoff_ms", 500),
    # Repeating is decided here: a call that broke off may have had an effect.
    ("grpc.enable_retries", 0),
    # A sidecar is on this machine or beside it, and never behind the proxy that the environment names.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", _ANSWER_BYTES_MAX),
    # While calls are open, a peer that says nothing for this long is asked whether it is there.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
]


class Gated(Enum):
    """Whether a call keeps to the gate."""

    YES = 1
    """Fail at once while the gate is closed."""
    NO = 2
    """Try for real."""
    ASIDE = 3
    """Fail at once while the gate is closed, and never be its probe; a missed deadline does not close it."""


class Link(Locked):
    """A sidecar."""

    def __init__(self, endpoint: object, io: Io, settings: Settings) -> None:
        super().__init__()
        self._target = parse_endpoint(endpoint)
        self.name = str(endpoint)
        self.gate = Gate(settings.backoff_min_s, settings.backoff_max_s)
        self._absence = Series()
        self._io = io
        self._owner: object = None
        self._channels: Channels | None = None
        self._closed = False
        self._app: Any = None
        self._streams: Any = None
        self._admin: Any = None

    @property
    def app(self) -> Any:
        """The stub of the application service."""
        self._connect()
        return self._app

    @property
    def streams(self) -> Any:
        """The stub of the application service, for calls that answer a stream."""
        self._connect()
        return self._streams

    @property
    def admin(self) -> Any:
        self._connect()
        return self._admin

    def _connect(self) -> None:
        owner = self._io.owner()
        if owner == self._owner:
            return
        with self._lock:
            if self._closed:
                raise GrapevineError(f"the client of {self.name} is closed")
            if owner == self._owner:
                return
            if self._owner is not None and not isinstance(owner, int):
                raise GrapevineError(
                    "an AsyncClient belongs to the event loop that first used it; make one for each loop"
                )
            # After a fork the parent's channels are let go without being closed, which their threads would have to do.
            channels = self._io.channels(self._target, _OPTIONS)
            # Generated without types.
            application: Any = ApplicationServiceStub
            admin: Any = AdminServiceStub
            self._app, self._admin = application(channels.calls), admin(channels.calls)
            self._streams = application(channels.streams)
            self._channels, self._owner = channels, owner

    async def close(self) -> None:
        with self._lock:
            self._closed = True
            channels, owner = self._channels, self._owner
            self._channels = self._owner = None
        if channels is not None and owner == self._io.owner():
            await self._io.close(channels)

    async def call(
        self, method: Any, request: Any, timeout_s: float, gated: Gated = Gated.NO, metadata: Metadata = ()
    ) -> Any:
        """Awaits an answer for at most `timeout_s`, and tells the gate how it went."""
        self.admit(timeout_s, gated)
        try:
            answer = await self._io.unary(method, request, timeout_s, metadata)
        except grpc.RpcError as failed:
            error = read_error(self.name, failed, timeout_s)
            if gated is not Gated.ASIDE or not isinstance(error, NoAnswer):
                self.note(error)
            raise error from None
        self.answered()
        return answer

    def stream(self, method: Any, request: Any) -> Stream:
        return self._io.stream(method, request)

    async def read(self, stream: Stream, timeout_s: float | None) -> Any:
        """Awaits the next message of a stream, None at its end, and tells the gate how it went."""
        try:
            message = await stream.read(timeout_s)
        except TimeoutError:
            error: CallError | InvalidRequest = _late(self.name, timeout_s)
        except grpc.RpcError as failed:
            error = read_error(self.name, failed, timeout_s)
        else:
            if message is not None:
                self.answered()
            return message
        self.note(error)
        raise error

    def admit(self, timeout_s: float, gated: Gated) -> None:
        left_s = self.gate.admit(timeout_s, time.monotonic()) if gated is Gated.YES else 0.0
        if left_s or (gated is Gated.ASIDE and not self.gate.is_open):
            raise Unreachable(
                self.name, "is unreachable: it failed a moment ago and is left alone for a while", left_s or None
            )

    def note(self, error: CallError | InvalidRequest) -> None:
        """Tells the gate what a failed call found out."""
        now = time.monotonic()
        if isinstance(error, Unreachable):
            self.gate.failure(now)
        elif isinstance(error, NoAnswer):
            self.gate.slow(now)
        elif isinstance(error, Broken):
            # The connection is made anew by the next call; that one finds out whether the sidecar is there.
            return
        else:
            self.answered()
            return
        if not self.gate.is_open:
            self._absence.failed("%s: leaving it alone for a while", error)

    def answered(self) -> None:
        self.gate.success()
        # Not only where that opened the gate: a call that failed may tell of it after another one has opened it.
        self._absence.went_well("sidecar %s answers again", self.name)


def parse_endpoint(value: object) -> str:
    """Reads `unix:/path`, `http://host:port` or `host:port`; answers what grpcio calls it."""

    def bad(problem: str) -> ConfigError:
        return ConfigError(f"endpoint {shorten(value)}: {problem}; write unix:/path, http://host:port or host:port")

    if not isinstance(value, str):
        raise bad("it is not a str")
    if value.startswith("unix:"):
        path = value.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise bad("the path of a Unix socket must be absolute")
        return f"unix:{path}"
    if value.startswith("https://"):
        raise bad("applications talk to sidecars without TLS, over a Unix socket or a trusted network")
    if any(letter.isspace() for letter in value):
        raise bad("it has whitespace")
    url = urlsplit(value if "://" in value else f"http://{value}")
    if url.scheme != "http":
        raise bad("the scheme is not known")
    try:
        host, port = url.hostname, url.port
    except ValueError:
        raise bad("the port is no number up to 65535") from None
    if not host or port is None:
        raise bad("the host or the port is missing")
    if url.path not in ("", "/") or url.query or url.fragment or url.username:
        raise bad("a path makes no sense here")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _late(endpoint: str, timeout_s: float | None) -> NoAnswer:
    return NoAnswer(endpoint, f"did not answer within {(timeout_s or 0.0) * 1_000:.0f} ms")


def read_error(endpoint: str, failed: Any, timeout_s: float | None) -> CallError | InvalidRequest:
    """Reads a status, of the sidecar or of grpcio."""
    code, message = failed.code(), failed.details() or ""
    trailing = tuple(failed.trailing_metadata() or ())
    # What grpcio says by itself comes without metadata; a server sends some with every answer.
    by_sidecar = bool(trailing or tuple(failed.initial_metadata() or ()))
    details = _details(trailing)
    retry_after_s = _retry_after_s(details)
    codes = grpc.StatusCode
    if not by_sidecar and "status: 431" in message:
        return Refused(
            endpoint,
            "refused (OUT_OF_RANGE): the call's metadata (`grapevine-session` and what else the caller adds) are larger"
            f" than it takes: the limit is {_METADATA_BYTES_MAX} bytes, names and 32 bytes an entry included",
            "OUT_OF_RANGE",
            False,
        )
    if code == codes.UNAVAILABLE:
        if by_sidecar or "failed to connect" in message.lower():
            return Unreachable(endpoint, f"is unreachable: {message}", retry_after_s)
        return Broken(endpoint, f"broke off before it answered ({code.name}): {message}")
    if code == codes.DEADLINE_EXCEEDED:
        if not by_sidecar:
            return _late(endpoint, timeout_s)
        if any(each.reason == "SESSION_BEHIND" for each in _unpacked(details, error_details_pb2.ErrorInfo)):
            return SessionBehind(endpoint, f"is behind the session: {message.removeprefix('session: ')}")
        return GaveUp(endpoint, f"gave up waiting: {message}")
    if code == codes.RESOURCE_EXHAUSTED and by_sidecar:
        return Overloaded(endpoint, f"has no room: {message}", retry_after_s)
    if code == codes.INVALID_ARGUMENT:
        bad = _unpacked(details, error_details_pb2.BadRequest)
        violations = [Violation(each.field, each.description) for part in bad for each in part.field_violations]
        return InvalidRequest(violations, message)
    if code in (codes.UNKNOWN, codes.ABORTED, codes.CANCELLED, codes.INTERNAL, codes.DATA_LOSS) or not by_sidecar:
        return Broken(endpoint, f"broke off before it answered ({code.name}): {message}")
    if code == codes.UNIMPLEMENTED and not message:
        message = "it does not offer this call; is this its address for applications?"
    everywhere = (codes.PERMISSION_DENIED, codes.UNAUTHENTICATED, codes.UNIMPLEMENTED, codes.OUT_OF_RANGE)
    return Refused(endpoint, f"refused ({code.name}): {message}", code.name, code not in everywhere)


def _details(metadata: tuple[tuple[str, Any], ...]) -> list[Any]:
    for key, value in metadata:
        if key == _DETAILS_KEY:
            try:
                return list(status_pb2.Status.FromString(value).details)
            except Exception:  # whatever protobuf raises for bytes that are no status: details are a help and no duty
                return []
    return []


def _unpacked(details: list[Any], kind: Any) -> list[Any]:
    found = []
    for detail in details:
        message = kind()
        if detail.Is(kind.DESCRIPTOR) and detail.Unpack(message):
            found.append(message)
    return found


def _retry_after_s(details: list[Any]) -> float | None:
    for info in _unpacked(details, error_details_pb2.RetryInfo):
        return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None
