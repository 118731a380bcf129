"""A cache backend for Django whose entries know what they depend on::

    CACHES = {
        "default": {
            "BACKEND": "grapevine_client.contrib.django.GrapevineCache",
            "LOCATION": "127.0.0.1:7400",            # the own sidecar; a list: further ones to hand invalidations to
            "OPTIONS": {
                "cache": "memcached://127.0.0.1:11211",
                "classes": "shop.caching.classes_of",  # optional: a key's further classes
            },
        }
    }

Each key has a class of its own, `django/{key}`, and those that `classes` tells: a function from the key as the program gave it to a
list. `delete` and `clear` are invalidations, acknowledged by a sidecar and heard by all; so is whatever the program does by
`cache.grapevine.invalidate([...])`.

**What is fenced.** `get_or_set` is `get_or_fill`: it looks up before the value is computed. A `get` that misses followed by a
`set` of the same key, in the same thread and within the lease, is fenced as well: the `set` goes under the look-up of the `get`. A
`set` without such a `get` is stored under what is known at that moment: a value that was read before an invalidation is then
served.

**While the sidecar is not sure, or is gone**, `get` misses and `set` and `add` store nothing. `delete` and `clear` raise
(`NoSidecar`, or `Refused` where `LOCATION` is no port for applications): a value that was to go might be served.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, InvalidCacheKey, memcache_key_warnings
from django.utils.module_loading import import_string

from grapevine_client import names
from grapevine_client._base import _session
from grapevine_client._calls import item
from grapevine_client._fence import Past, Unit
from grapevine_client._io import run
from grapevine_client.client import Client
from grapevine_client.codecs import PickleCodec
from grapevine_client.errors import CallError, CodecError, ConfigError, InvalidRequest
from grapevine_client.settings import Settings

# So many look-ups of misses a thread remembers for the `set` that follows.
_REMEMBERED_MAX = 1_024
_OPTIONS = {"cache", "classes", "class_prefix", "pickle_protocol", "settings"}
_CLASSES = "it must be a function or its dotted path, 'shop.caching.classes_of' say"
_MISSING = object()
# Without types in Django's stubs.
_key_warnings: Any = memcache_key_warnings
_invalid_key: Any = InvalidCacheKey

# Django makes a backend for each thread (and asynchronous context): they share a client for each configuration.
_clients: dict[tuple[object, ...], Client] = {}
_clients_lock = threading.Lock()


class GrapevineCache(BaseCache):
    """See the module."""

    def __init__(self, server: str | Sequence[str], params: dict[str, Any]) -> None:
        super().__init__(params)
        options: Mapping[str, Any] = params.get("OPTIONS") or {}
        unknown = sorted(set(options) - _OPTIONS)
        if unknown:
            raise ConfigError(
                f"OPTIONS of {type(self).__name__}: {unknown[0]!r} is not known; known: {', '.join(sorted(_OPTIONS))}"
            )
        if "cache" not in options:
            raise ConfigError(
                f"OPTIONS of {type(self).__name__}: 'cache' is missing; 'memcached://127.0.0.1:11211' say"
            )
        servers = [server] if isinstance(server, str) else list(server)
        if not servers or not servers[0]:
            raise ConfigError("LOCATION is empty; it must be the sidecar, '127.0.0.1:7400' or 'unix:/path' say")
        try:
            self._prefix = names.check_class("OPTIONS['class_prefix']", options.get("class_prefix", "django"))
        except InvalidRequest as invalid:
            (wrong,) = invalid.violations
            raise ConfigError(f"{wrong.field}: {wrong.description}") from None
        classes = options.get("classes")
        more = _imported(classes) if isinstance(classes, str) else classes
        self._more: Callable[[str], Sequence[str]] | None = more
        if more is not None and not callable(more):
            raise ConfigError(f"OPTIONS['classes'] is {names.shorten(classes)}; {_CLASSES}")
        self._codec = PickleCodec(options.get("pickle_protocol", pickle.HIGHEST_PROTOCOL))
        self._servers, self._cache_url, self._settings = servers, str(options["cache"]), options.get("settings")
        # Looked-up misses, for the `set` that follows: a backend is used by one thread at a time.
        self._missed: OrderedDict[str, Unit] = OrderedDict()

    @property
    def grapevine(self) -> Client:
        """The client, for what Django's interface has no words for: `invalidate`, `begin_write`, `get_or_fill`."""
        return _client(self._servers, self._cache_url, self._settings)

    def _names(self, key: str, version: int | None) -> tuple[str, tuple[str, ...]]:
        """A key's address and classes."""
        made: str = self.make_key(key, version=version)
        warnings: Iterable[str] = _key_warnings(made)
        for warning in warnings:
            refused: Exception = _invalid_key(warning)
            raise refused
        # One segment, so that a key's slashes make no class of another key.
        segment = quote(made, safe=":")
        own = f"{self._prefix}/{segment}"
        if len(own.encode()) > names.CLASS_BYTES_MAX:
            own = f"{self._prefix}/{hashlib.sha256(made.encode()).hexdigest()}"
        more = _classes_of(key, self._more(key)) if self._more is not None else ()
        return made, (own, *(each for each in more if each != own))

    def _look(self, keys: Iterable[str], version: int | None) -> dict[str, Unit]:
        """The look-ups of keys, in one call; none while the sidecar cannot be believed."""
        named = {key: self._names(key, version) for key in keys}
        client, found = self.grapevine, {}
        trouble = client._base._need_cache().trouble
        for address, classes in named.values():
            names.check_address("key", address)
            names.check_classes("classes", classes, names.CLASSES_MAX)
        every = list(named.items())
        for at in range(0, len(every), names.BATCH_MAX):
            part = every[at : at + names.BATCH_MAX]
            try:
                answer = run(client._base._calls.resolve([item(*of) for _, of in part], _session(None), None))
            except CallError as error:
                client._base._counters.add(f"bypass_{trouble.look_up_failed(error).value}", len(part))
                continue
            trouble.look_up_answered()
            for (key, (address, classes)), resolution in zip(part, answer.results, strict=True):
                if resolution.bypass or len(resolution.targets) != 1:
                    client._base._counters.add("bypass_policy")
                    continue
                found[key] = Unit.of(address, address, classes, resolution, resolution.targets[0], None)
        return found

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        client = self.grapevine
        fence = client._base._need_cache()
        units = self._look(keys, version)
        found = run(fence.peek_many(list(units.values()), Past(_session(None))))
        client._base._reports.send_if_due()
        values = {}
        for (key, unit), data in zip(units.items(), found, strict=True):
            value = _MISSING
            if data is not None:
                try:
                    value = self._codec.loads(data)
                except Exception:
                    client._base._counters.add("undecodable")
            if value is _MISSING:
                self._remember(unit)
            else:
                values[key] = value
        return values

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self.get_many([key], version=version).get(key, default)

    def has_key(self, key: str, version: int | None = None) -> bool:
        return self.get(key, _MISSING, version=version) is not _MISSING

    def _remember(self, unit: Unit) -> None:
        self._missed[unit.base] = unit
        if len(self._missed) > _REMEMBERED_MAX:
            self._missed.popitem(last=False)

    def _recall(self, key: str, version: int | None) -> Unit | None:
        """The look-up of the `get` that missed, while its lease holds."""
        unit = self._missed.pop(self.make_key(key, version=version), None)
        if unit is None or time.monotonic() - unit.looked_up >= unit.resolution.lease_ms / 1_000:
            return None
        return unit

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self.set_many({key: value}, timeout=timeout, version=version)

    def set_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        ttl_ms = self._ttl_ms(timeout)
        if ttl_ms == 0:
            # Django's word for "not at all".
            self.delete_many(data, version=version)
            return []
        units = {key: unit for key in data if (unit := self._recall(key, version)) is not None}
        units.update(self._look([key for key in data if key not in units], version))
        failed = []
        client = self.grapevine
        fence = client._base._need_cache()
        for key, value in data.items():
            unit = units.get(key)
            encoded = self._dumps(key, value)
            if unit is None or not run(fence.keep(unit.within(ttl_ms), encoded)):
                failed.append(key)
        return failed

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        ttl_ms, encoded = self._ttl_ms(timeout), self._dumps(key, value)
        if ttl_ms == 0:
            return not self.has_key(key, version=version)
        unit = self._look([key], version).get(key)
        if unit is None:
            return False
        client = self.grapevine
        keeping = client._base._need_cache().keep(unit.within(ttl_ms), encoded, only_if_absent=True)
        return run(keeping)

    def get_or_set(self, key: str, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> Any:
        """`get_or_fill`: fenced, and computed once for all threads that miss it. A `default` that is no function was computed
        before this call: it is stored only if the key has none."""
        address, classes = self._names(key, version)
        ttl_ms = self._ttl_ms(timeout)
        if ttl_ms == 0:
            value = self.get(key, _MISSING, version=version)
            return (default() if callable(default) else default) if value is _MISSING else value
        return self.grapevine.get_or_fill(
            address,
            classes,
            default if callable(default) else lambda: default,
            ttl_s=None if ttl_ms is None else ttl_ms / 1_000,
            codec=self._codec,
        )

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        value = self.get(key, _MISSING, version=version)
        if value is _MISSING:
            return False
        return not self.set_many({key: value}, timeout=timeout, version=version)

    def delete(self, key: str, version: int | None = None) -> bool:
        """Invalidates the key's own class, everywhere. Says whether there was a value, as seen from here."""
        held = self.has_key(key, version=version)
        self.delete_many([key], version=version)
        return held

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        own = [self._names(key, version)[1][0] for key in keys]
        for at in range(0, len(own), names.INVALIDATE_CLASSES_MAX):
            self.grapevine.invalidate(own[at : at + names.INVALIDATE_CLASSES_MAX])
        for key in keys:
            # What was looked up before is superseded: nothing may go under it.
            self._missed.pop(self.make_key(key, version=version), None)

    def clear(self) -> None:
        """Invalidates every key of this prefix, of all `KEY_PREFIX`es and versions, at every sidecar."""
        self.grapevine.invalidate([self._prefix])
        self._missed.clear()

    def close(self, **kwargs: Any) -> None:
        """Django calls it behind every request; the connections stay. What was looked up in the request is over with it."""
        self._missed.clear()

    def _dumps(self, key: str, value: Any) -> bytes:
        try:
            return self._codec.dumps(value)
        except Exception as error:
            raise CodecError(
                f"the value of {names.shorten(key)}, a {type(value).__name__}, cannot be pickled: {error}"
            ) from error

    def _ttl_ms(self, timeout: Any) -> int | None:
        """None takes the policy's, which bounds every other too; 0 stores nothing."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        if timeout is None:
            return None
        return 0 if timeout <= 0 else names.milliseconds(min(timeout, names.TTL_S_MAX))


def _imported(classes: str) -> Any:
    try:
        return import_string(classes)
    except (ImportError, TypeError, ValueError) as error:  # the latter two for paths that begin with a dot
        raise ConfigError(
            f"OPTIONS['classes'] is {names.shorten(classes)}, which cannot be imported: {error}; {_CLASSES}"
        ) from error


def _classes_of(key: str, answer: object) -> Sequence[str]:
    """What `classes` answered for a key. A str is a sequence of strings: taken as one, each of its letters would be a class."""
    kind = names.kind(answer)
    if isinstance(answer, (list, tuple)):
        wrong = [each for each in answer if not isinstance(each, str)]
        if not wrong:
            return answer
        kind += f" that holds {names.kind(wrong[0])}"
    raise InvalidRequest.one(
        "OPTIONS['classes']",
        f"for the key {names.shorten(key)} it answered {names.shorten(answer)}, {kind}; it must be a list of classes,"
        " ['carts/13'] say",
    )


def _client(servers: list[str], cache: str, settings: Settings | None) -> Client:
    # A process that was forked makes its own.
    key = (os.getpid(), tuple(servers), cache, settings)
    client = _clients.get(key)
    if client is None:
        with _clients_lock:
            client = _clients.get(key)
            if client is None:
                client = Client(servers[0], cache=cache, fail_over_to=servers[1:], settings=settings)
                _clients[key] = client
    return client
