"""`@cached`: a function whose results are read through the cache.

Addresses and classes are templates over the function's arguments (`"cart/{cart}"`), or functions of them. Templates are filled in
by `str.format` and nothing is quoted, so that a class here is the same text as in `invalidate([f"cart/{cart}"])`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import string
from collections.abc import Callable, Coroutine, Sequence
from types import MethodType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from grapevine_client import names
from grapevine_client.aio import AsyncClient
from grapevine_client.client import Client, Seconds
from grapevine_client.codecs import Codec
from grapevine_client.errors import ConfigError
from grapevine_client.outcome import InvalidateOutcome

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

_default: Client | None = None
_default_async: AsyncClient | None = None


def set_default_client(client: Client | AsyncClient) -> None:
    """The client of decorated functions that are given none: `Client` for plain ones, `AsyncClient` for coroutine functions."""
    global _default, _default_async
    if isinstance(client, AsyncClient):
        _default_async = client
    elif isinstance(client, Client):
        _default = client
    else:
        raise ConfigError(f"client is a {type(client).__name__}; it must be a Client or an AsyncClient")


class _Names(Generic[P]):
    """Which address and classes a call has."""

    def __init__(
        self,
        function: Callable[..., Any],
        classes: Sequence[str] | Callable[P, Sequence[str]],
        address: str | Callable[P, str] | None,
    ) -> None:
        self._signature = inspect.signature(function)
        self._name = f"{function.__module__}.{function.__qualname__}"
        self._classes, self._address = classes, address
        if not callable(classes):
            for index, template in enumerate(_listed(classes)):
                self._check(f"classes[{index}]", template)
        if address is not None and not callable(address):
            self._check("address", address)

    def _check(self, field: str, template: object) -> None:
        if not isinstance(template, str):
            raise ConfigError(f"{field} of {self._name} is {names.shorten(template)}; it must be a str")
        try:
            fields = [part[1] for part in string.Formatter().parse(template) if part[1] is not None]
        except ValueError as error:
            raise ConfigError(f"{field} of {self._name} is {template!r}, which is no template: {error}") from None
        for part in fields:
            name = part.replace("[", ".").split(".")[0]
            if name not in self._signature.parameters:
                known = ", ".join(self._signature.parameters) or "none"
                raise ConfigError(
                    f"{field} of {self._name} is {template!r}, which names the argument {name!r}; it has: {known}"
                )

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Sequence[str]]:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if callable(self._classes):
            classes: Sequence[str] = self._classes(*args, **kwargs)
        else:
            classes = [template.format_map(bound.arguments) for template in self._classes]
        if callable(self._address):
            return self._address(*args, **kwargs), classes
        if self._address is not None:
            return self._address.format_map(bound.arguments), classes
        return self._made_up(bound.arguments), classes

    def _made_up(self, arguments: dict[str, Any]) -> str:
        """An address for a function that was given none: its name and its arguments, as JSON without spaces."""
        for name, value in arguments.items():
            if not _is_plain(value):
                raise ConfigError(
                    f"argument {name} of {self._name} is {names.shorten(value)}, which has no one way to be written into an"
                    " address: give @cached an address"
                )
        text = json.dumps(arguments, ensure_ascii=True, separators=(",", ":")).replace(" ", "\\u0020")
        address = f"{self._name}::{text}".replace("<locals>", "")
        if len(address) <= names.ADDRESS_BYTES_MAX and not any(letter.isspace() for letter in address):
            return address
        digest = hashlib.sha256(address.encode()).hexdigest()
        return f"{self._name[: names.ADDRESS_BYTES_MAX - 70]}::{digest}".replace("<locals>", "")


def _listed(classes: object) -> Sequence[object]:
    """The templates; as many as an address may have classes."""
    if isinstance(classes, (str, bytes)) or not isinstance(classes, Sequence):
        raise ConfigError(f"classes is {names.shorten(classes)}; it must be a list of templates, ['cart/{{cart}}'] say")
    if not 1 <= len(classes) <= names.CLASSES_MAX:
        raise ConfigError(f"{len(classes)} classes are outside 1 to {names.CLASSES_MAX}")
    return classes


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    return value is None or type(value) in (bool, int, float, str)


class Cached(Generic[P, R]):
    """A function that reads through the cache. Of a coroutine function, what is called answers something to be awaited."""

    def __init__(
        self,
        function: Callable[P, R],
        call_names: _Names[P],
        client: Callable[[], Any],
        ttl_s: Seconds,
        serve_stale: bool,
        codec: Codec | None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        self._names, self._client = call_names, client
        self._options: dict[str, Any] = {"ttl_s": ttl_s, "serve_stale": serve_stale, "codec": codec}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        address, classes = self._names.of(args, kwargs)
        value: R = self._client().get_or_fill(
            address, classes, lambda: self.__wrapped__(*args, **kwargs), **self._options
        )
        return value

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def address_of(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The address of a call's value."""
        return self._names.of(args, kwargs)[0]

    def classes_of(self, *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """The classes of a call's value."""
        return list(self._names.of(args, kwargs)[1])

    # They overlap where R is Any, and then either is right.
    @overload
    def invalidate(  # type: ignore[overload-overlap]
        self: Cached[P, Coroutine[Any, Any, Any]], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, InvalidateOutcome]: ...
    @overload
    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> InvalidateOutcome: ...
    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        """Declares the classes of a call's value changed, and with them all else that is in them."""
        return self._client().invalidate(self._names.of(args, kwargs)[1])


class _AsyncCached(Cached[P, R]):
    """Of a coroutine function: a coroutine function itself, which frameworks look at."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:  # type: ignore[override]
        address, classes = self._names.of(args, kwargs)
        return await self._client().get_or_fill(
            address, classes, lambda: self.__wrapped__(*args, **kwargs), **self._options
        )


class CachedDecorator(Protocol):
    """What `cached` gives."""

    def __call__(self, function: Callable[P, R]) -> Cached[P, R]: ...


def cached(
    *,
    classes: Sequence[str] | Callable[..., Sequence[str]],
    address: str | Callable[..., str] | None = None,
    client: Client | AsyncClient | None = None,
    ttl_s: Seconds = None,
    serve_stale: bool = False,
    codec: Codec | None = None,
) -> CachedDecorator:
    """Reads a function's results through the cache.

    `classes` and `address` are templates over the arguments, or functions of them; without an address one is made of the function's
    name and its arguments, which must be plain then. Two calls with different results must have different addresses:
    `"{a}:{b}"` is one address for `("1:2", "3")` and `("1", "2:3")`. Without a client it is the one of `set_default_client`.
    Inside the function `depends_on` names what else its result rests on.
    """
    names.check_ttl("ttl_s", ttl_s)

    def decorate(function: Callable[..., Any]) -> Any:
        call_names: _Names[...] = _Names(function, classes, address)
        if inspect.iscoroutinefunction(function):
            if isinstance(client, Client):
                raise ConfigError(f"{function.__qualname__} is a coroutine function: it takes an AsyncClient")
            return _AsyncCached(
                function, call_names, lambda: client or _need(_default_async, "AsyncClient"), ttl_s, serve_stale, codec
            )
        if isinstance(client, AsyncClient):
            raise ConfigError(f"{function.__qualname__} is no coroutine function: it takes a Client")
        return Cached(function, call_names, lambda: client or _need(_default, "Client"), ttl_s, serve_stale, codec)

    return decorate


def _need(client: T | None, kind: str) -> T:
    if client is None:
        raise ConfigError(f"@cached has no client: pass client=... or call set_default_client with a {kind} first")
    return client
