"""Sessions: what a bearer has written and must see again, at whichever sidecar it asks next (G5).

An invalidation answers a session token. A `Session` collects up to three of them, one per run of a sidecar that issued any, and
travels with later reads and writes; the sidecar asked answers once it has applied what they name. Between processes it travels
as text: the tokens in lower-case hexadecimal, separated by dots, in the HTTP header or gRPC metadata entry `grapevine-session`.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

from grapevine_client.errors import SessionError
from grapevine_client.names import check_seconds, milliseconds, shorten

SESSION_HEADER = "grapevine-session"
SESSION_WAIT_ENTRY = "grapevine-session-wait-ms"
SESSION_TOKENS_MAX = 3
SESSION_TOKEN_BYTES_MAX = 64

# Version 1, the issuer's incarnation in 16 bytes, a sequence in 8.
_TOKEN_V1_BYTES = 25


class Session:
    """What a bearer must be able to see. Not for several threads at once."""

    def __init__(self, *, wait_s: float = 1.0) -> None:
        """`wait_s` is how long a sidecar may wait to catch up with it: 1 ms to 60 s."""
        self.wait_s = check_seconds("wait_s", wait_s, 0.001, 60.0)
        self._tokens: list[bytes] = []

    @classmethod
    def parse(cls, text: str, *, wait_s: float = 1.0) -> Session:
        """Reads a header's value; the empty text is the session that has seen nothing."""
        session = cls(wait_s=wait_s)
        for token in text.split(".") if text else ():
            if len(token) > 2 * SESSION_TOKEN_BYTES_MAX:
                raise SessionError(
                    f"a session token has {len(token) // 2} bytes; it must have 1 to {SESSION_TOKEN_BYTES_MAX}"
                )
            try:
                # `fromhex` skips spaces, which are no digits.
                if not token.isalnum():
                    raise ValueError
                session.add(bytes.fromhex(token))
            except ValueError as error:
                if isinstance(error, SessionError):
                    raise
                raise SessionError(
                    f"a session is hexadecimal tokens separated by dots; this one has {shorten(token)}"
                ) from None
        return session

    def add(self, token: bytes) -> None:
        """Adds what an invalidation answered. Of two tokens of one run the later is kept."""
        if not 1 <= len(token) <= SESSION_TOKEN_BYTES_MAX:
            raise SessionError(f"a session token has {len(token)} bytes; it must have 1 to {SESSION_TOKEN_BYTES_MAX}")
        if token in self._tokens:
            return
        for position, held in enumerate(self._tokens):
            if _issuer(held) is not None and _issuer(held) == _issuer(token):
                # The sequence is the token's big-endian end: comparing the tokens compares it.
                self._tokens[position] = max(held, token)
                return
        if len(self._tokens) >= SESSION_TOKENS_MAX:
            raise SessionError(
                f"the session holds tokens of {SESSION_TOKENS_MAX} incarnations already, which is the limit"
            )
        self._tokens.append(token)

    @property
    def tokens(self) -> tuple[bytes, ...]:
        """The tokens, oldest issuer first."""
        return tuple(self._tokens)

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def __str__(self) -> str:
        return ".".join(token.hex() for token in self._tokens)

    def __repr__(self) -> str:
        return f"Session({str(self)!r}, wait_s={self.wait_s:g})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Session) and self._tokens == other._tokens and self.wait_s == other.wait_s

    __hash__ = None  # type: ignore[assignment]

    @property
    def wait_ms(self) -> int:
        return milliseconds(self.wait_s)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((SESSION_HEADER, str(self)), (SESSION_WAIT_ENTRY, str(self.wait_ms))) if self else ()


def _issuer(token: bytes) -> bytes | None:
    return token[1:17] if len(token) == _TOKEN_V1_BYTES and token[0] == 1 else None


_current: contextvars.ContextVar[Session | None] = contextvars.ContextVar("grapevine_session", default=None)


@contextlib.contextmanager
def use_session(session: Session) -> Iterator[Session]:
    """Within it, calls that are given no session take this one: reads by decorated functions above all."""
    before = _current.set(session)
    try:
        yield session
    finally:
        _current.reset(before)


def current_session() -> Session | None:
    return _current.get()
