"""What can go wrong, and what to do about it.

`CallError` says how one call to one sidecar failed; whether it *may have had an effect* is part of the answer. `NoSidecar` is what
an invalidation or a write comes to when every sidecar that could be asked has failed. A cached read has only one error of its
own, `InvalidRequest`: a sidecar or a cache in trouble is never the reader's problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class GrapevineError(Exception):
    """The base of all errors of this package."""


class ConfigError(GrapevineError, ValueError):
    """A client cannot be built like this: the message names the setting, the value and what is allowed."""


class SessionError(GrapevineError, ValueError):
    """A session token or a session's text is refused."""


class FormatError(GrapevineError, ValueError):
    """Something is too long to be written in the format of values."""


class CodecError(GrapevineError, TypeError):
    """A codec cannot turn a value into bytes. The message names the address, the value's type and the codec."""


@dataclass(frozen=True)
class Violation:
    """One field that was refused."""

    field: str
    """Its path in the request, `classes[1]` say."""
    description: str
    """What is wrong, with the value and the limit."""


class InvalidRequest(GrapevineError, ValueError):
    """A request that no sidecar will take, whoever is asked and how often: correct the caller."""

    def __init__(self, violations: Sequence[Violation], message: str = "") -> None:
        self.violations = tuple(violations)
        self.message = message
        text = "invalid request"
        # A summary that only repeats a field's text is left out.
        if message and not any(violation.description in message for violation in self.violations):
            text += f": {message}"
        if self.violations:
            text += ": " + "; ".join(f"{each.field}: {each.description}" for each in self.violations)
        super().__init__(text)

    @classmethod
    def one(cls, field: str, description: str) -> InvalidRequest:
        return cls([Violation(field, description)])


class CallError(GrapevineError):
    """One call to one sidecar gave no answer."""

    may_have_had_effect = False
    """Whether the call may have done what it asked for although it failed."""
    may_differ_elsewhere = True
    """Whether another sidecar could answer otherwise."""

    def __init__(self, endpoint: str, message: str, retry_after_s: float | None = None) -> None:
        self.endpoint = endpoint
        self.retry_after_s = retry_after_s
        """How long to wait before asking again, where that is known."""
        super().__init__(f"sidecar {endpoint} {message}")


class Unreachable(CallError):
    """It could not be reached, or said that it did nothing. No effect."""


class NoAnswer(CallError):
    """No answer within the deadline. It may have had its effect."""

    may_have_had_effect = True


class Broken(CallError):
    """The connection broke before the answer, or the sidecar stopped with the call in hand. It may have had its effect."""

    may_have_had_effect = True


class GaveUp(CallError):
    """The sidecar gave up waiting, for its disk say. It may have had its effect."""

    may_have_had_effect = True


class BadAnswer(CallError):
    """It answered against the contract: client and sidecar are of different makes. Update the older one."""

    may_have_had_effect = True


class Overloaded(CallError):
    """It has no room, or too many look-ups wait for it here. No effect; ask again after `retry_after_s`."""


class SessionBehind(CallError):
    """It has not applied what the session has seen. No effect."""


class Refused(CallError):
    """It refused for another reason, which `code` names. No effect."""

    def __init__(self, endpoint: str, message: str, code: str, may_differ_elsewhere: bool) -> None:
        super().__init__(endpoint, message)
        self.code = code
        self.may_differ_elsewhere = may_differ_elsewhere


class NoSidecar(GrapevineError):
    """No sidecar acknowledged it. Refuse the commit, or keep the classes and ask again: an invalidation may be repeated."""

    def __init__(self, what: str, attempts: Sequence[CallError]) -> None:
        self.attempts = tuple(attempts)
        """One entry per attempt, in order."""
        super().__init__(f"{what}: " + "; ".join(str(each) for each in attempts))

    @property
    def may_have_had_effect(self) -> bool:
        return any(each.may_have_had_effect for each in self.attempts)

    @property
    def session_behind(self) -> bool:
        """Whether nothing but the session was in the way: nothing was done, ask again."""
        return all(isinstance(each, SessionBehind) for each in self.attempts)

    @property
    def retry_after_s(self) -> float | None:
        waits = [each.retry_after_s for each in self.attempts if each.retry_after_s is not None]
        return min(waits, default=None)
