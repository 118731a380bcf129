"""Caches behind a small protocol, and adapters over the libraries that speak to them.

An adapter only moves bytes. It raises whatever its library raises: the fence takes that for a miss, or for a value that was not
stored. Keys are what sidecars answer as cache addresses: at most 250 bytes of UTF-8 without whitespace and control bytes.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from urllib.parse import SplitResult, urlsplit

from grapevine_client.errors import ConfigError
from grapevine_client.names import shorten

if TYPE_CHECKING:
    import redis
    import redis.asyncio

# memcached takes what is above for a date.
_MEMCACHED_TTL_S_MAX = 30 * 24 * 3_600
_TIMEOUT_S = 1.0
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}
_FORMS = "memcached://host:port, redis://host:port/db (rediss://, unix:///path?db=0) or memory://"
_PASSWORD = re.compile(r"([^?&=]*pass[^&=]*=)[^&]*", re.IGNORECASE)


@runtime_checkable
class Cache(Protocol):
    """A cache for a `Client`. Called from several threads at once."""

    ttl_grain_ms: int
    """In what steps it counts time; a TTL is rounded down to them."""

    def get(self, key: str) -> bytes | None: ...
    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]: ...
    def set(self, key: str, value: bytes, ttl_ms: int) -> None: ...
    def add(self, key: str, value: bytes, ttl_ms: int) -> bool:
        """Stores it unless there is one, in one step; says whether it did."""

    def close(self) -> None: ...


@runtime_checkable
class AsyncCache(Protocol):
    """A cache for an `AsyncClient`."""

    ttl_grain_ms: int

    async def get(self, key: str) -> bytes | None: ...
    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]: ...
    async def set(self, key: str, value: bytes, ttl_ms: int) -> None: ...
    async def add(self, key: str, value: bytes, ttl_ms: int) -> bool: ...
    async def close(self) -> None: ...


class MemoryCache:
    """In this process: for tests and programs of one process. The least recently used leave first."""

    ttl_grain_ms = 1

    def __init__(self, entries_max: int = 10_000) -> None:
        if entries_max < 1:
            raise ConfigError(f"entries_max is {entries_max}; it must be 1 or more")
        self._entries_max = entries_max
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        with self._lock:
            return self._get(key)

    def _get(self, key: str) -> bytes | None:
        held = self._entries.get(key)
        if held is None:
            return None
        if time.monotonic() >= held[1]:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return held[0]

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        found = ((key, self.get(key)) for key in keys)
        return {key: value for key, value in found if value is not None}

    def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        with self._lock:
            self._set(key, value, ttl_ms)

    def _set(self, key: str, value: bytes, ttl_ms: int) -> None:
        self._entries[key] = (value, time.monotonic() + ttl_ms / 1_000)
        self._entries.move_to_end(key)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def add(self, key: str, value: bytes, ttl_ms: int) -> bool:
        with self._lock:
            if self._get(key) is not None:
                return False
            self._set(key, value, ttl_ms)
            return True

    def close(self) -> None:
        with self._lock:
            self._entries.clear()


class PymemcacheCache:
    """memcached by pymemcache. The client must be one for several threads: a `PooledClient`, or a `HashClient` with
    `use_pooling=True`; without a serde, so that bytes stay bytes."""

    ttl_grain_ms = 1_000

    def __init__(self, client: Any) -> None:
        self._held = client
        self._pid = os.getpid()

    @property
    def _client(self) -> Any:
        if self._pid != os.getpid():
            # A fork's child has the parent's sockets, and would read its answers. Closed here they stay open there.
            self._held.close()
            self._pid = os.getpid()
        return self._held

    @classmethod
    def connect(
        cls, host: str, port: int, *, connections_max: int = 64, timeout_s: float = _TIMEOUT_S
    ) -> PymemcacheCache:
        try:
            from pymemcache.client.base import PooledClient
        except ImportError as error:
            raise _not_installed(f"memcached://{host}:{port}", "pymemcache", "memcached") from error

        return cls(
            PooledClient(
                (host, port),
                max_pool_size=connections_max,
                connect_timeout=timeout_s,
                timeout=timeout_s,
                no_delay=True,
            )
        )

    def get(self, key: str) -> bytes | None:
        # As bytes they may be any UTF-8; pymemcache wants ASCII of a str.
        found: bytes | None = self._client.get(key.encode())
        return found

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        found = self._client.get_many([key.encode() for key in keys])
        return {key.decode(): value for key, value in found.items()}

    def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        if not self._client.set(key.encode(), value, expire=_memcached_ttl(ttl_ms), noreply=False):
            raise OSError("memcached did not store it")

    def add(self, key: str, value: bytes, ttl_ms: int) -> bool:
        return bool(self._client.add(key.encode(), value, expire=_memcached_ttl(ttl_ms), noreply=False))

    def close(self) -> None:
        self._client.close()


class RedisCache:
    """Redis by redis-py, whose client has a pool of its own; without `decode_responses`."""

    ttl_grain_ms = 1

    def __init__(self, client: redis.Redis) -> None:
        _refuse_decoding(client)
        self._client: Any = client

    def get(self, key: str) -> bytes | None:
        found: bytes | None = self._client.get(key)
        return found

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        return _found(keys, self._client.mget(keys) if keys else [])

    def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        self._client.set(key, value, px=ttl_ms)

    def add(self, key: str, value: bytes, ttl_ms: int) -> bool:
        return bool(self._client.set(key, value, px=ttl_ms, nx=True))

    def close(self) -> None:
        self._client.close()


class AsyncRedisCache:
    """Redis by redis.asyncio; without `decode_responses`."""

    ttl_grain_ms = 1

    def __init__(self, client: redis.asyncio.Redis) -> None:
        _refuse_decoding(client)
        self._client: Any = client

    async def get(self, key: str) -> bytes | None:
        found: bytes | None = await self._client.get(key)
        return found

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        return _found(keys, await self._client.mget(keys) if keys else [])

    async def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        await self._client.set(key, value, px=ttl_ms)

    async def add(self, key: str, value: bytes, ttl_ms: int) -> bool:
        return bool(await self._client.set(key, value, px=ttl_ms, nx=True))

    async def close(self) -> None:
        await self._client.aclose()


class ExecutorCache:
    """Any blocking cache in an asyncio program, by threads of an executor (None takes the loop's): pymemcache above all."""

    def __init__(self, cache: Cache, executor: Executor | None = None) -> None:
        self._cache = cache
        self._executor = executor
        self.ttl_grain_ms = cache.ttl_grain_ms

    async def _run(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def get(self, key: str) -> bytes | None:
        found: bytes | None = await self._run(self._cache.get, key)
        return found

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = await self._run(self._cache.get_many, keys)
        return found

    async def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        await self._run(self._cache.set, key, value, ttl_ms)

    async def add(self, key: str, value: bytes, ttl_ms: int) -> bool:
        return bool(await self._run(self._cache.add, key, value, ttl_ms))

    async def close(self) -> None:
        await self._run(self._cache.close)


class InlineCache:
    """A blocking cache behind the asynchronous protocol, whose coroutines never suspend: what a `Client` runs on, and right for a
    cache in this process."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.ttl_grain_ms = cache.ttl_grain_ms

    async def get(self, key: str) -> bytes | None:
        return self._cache.get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        return self._cache.get_many(keys)

    async def set(self, key: str, value: bytes, ttl_ms: int) -> None:
        self._cache.set(key, value, ttl_ms)

    async def add(self, key: str, value: bytes, ttl_ms: int) -> bool:
        return self._cache.add(key, value, ttl_ms)

    async def close(self) -> None:
        self._cache.close()


def connect_cache(url: str) -> Cache:
    """A cache by its URL: `memcached://host:port`, `redis://host:port/db` (`rediss://`, `unix:///path?db=0`) or `memory://`.

    memcached's and Redis' take `?timeout=250ms` (without it a second), Redis' also what redis-py's connections know."""
    if not isinstance(url, str):
        raise ConfigError(f"cache is a {type(url).__name__}; it must be a URL: {_FORMS}")
    if _is_redis(url):
        try:
            import redis
        except ImportError as error:
            raise _not_installed(url, "redis", "redis") from error
        return RedisCache(_redis_client(url, redis.Redis))
    parts, options = _split(url)
    if parts.scheme == "memcached":
        return _connect_memcached(url, parts, options)
    if parts.scheme == "memory":
        if options:
            raise _bad_url(url, "it takes no options; MemoryCache(entries_max=...) does")
        if parts.netloc or parts.path:
            raise _bad_url(url, "it is in this process, and names no server")
        return MemoryCache()
    raise _bad_url(url, "the scheme is not known")


def connect_async_cache(url: str) -> AsyncCache:
    """The same for asyncio; memcached by threads."""
    if _is_redis(url):
        try:
            import redis.asyncio
        except ImportError as error:
            raise _not_installed(url, "redis", "redis") from error
        return AsyncRedisCache(_redis_client(url, redis.asyncio.Redis))
    cache = connect_cache(url)
    return InlineCache(cache) if isinstance(cache, MemoryCache) else ExecutorCache(cache)


def _connect_memcached(url: str, parts: SplitResult, options: dict[str, str]) -> Cache:
    if not parts.hostname or parts.port is None or "@" in parts.netloc or parts.path not in ("", "/"):
        raise _bad_url(url, "there must be one host and its port, and nothing else")
    timeout_s = _timeout_s(url, options)
    for option in options:
        raise _bad_url(url, f"option {shorten(option)} is not known here; known: timeout")
    return PymemcacheCache.connect(parts.hostname, parts.port, timeout_s=timeout_s)


def _redis_client(url: str, kind: Any) -> Any:
    parts, options = _split(url)
    database = parts.path.strip("/")
    if parts.scheme == "unix":
        if not parts.path:
            raise _bad_url(url, "the path of a Unix socket must be absolute")
    elif database and not (database.isascii() and database.isdecimal()):
        # redis-py would take 0.
        raise _bad_url(url, f"the database {shorten(database)} must be a number, 0 or more")
    timeout_s = _timeout_s(url, options)
    theirs = url.partition("?")[0] + "?" + "&".join(f"{option}={value}" for option, value in options.items())
    try:
        client = kind.from_url(theirs, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        # Most options redis-py looks at when it connects: every read would take its error for a cache that is away.
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except Exception as error:  # whatever it raises for an option; the message names it
        unknown = re.search(r"unexpected keyword argument ('.*')", str(error))
        what = f"option {unknown[1]} is not known to redis-py" if unknown else f"redis-py refuses an option: {error}"
        raise _bad_url(url, f"{what}; known: timeout, and those of its connections") from error
    return client


def _is_redis(url: object) -> bool:
    return isinstance(url, str) and url.startswith(("redis://", "rediss://", "unix://"))


def _split(url: str) -> tuple[SplitResult, dict[str, str]]:
    """A URL and its options, as they are written."""
    try:
        parts = urlsplit(url)
        # Looked at for its error.
        _ = parts.port
    except ValueError:
        # Python's words may hold a part of a password.
        raise _bad_url(url, "the host or the port is malformed; a port is a number up to 65535") from None
    if "://" not in url:
        raise _bad_url(url, "the scheme is missing")
    if parts.scheme != "unix" and "@" in parts.path + parts.query + parts.fragment:
        raise _bad_url(url, "what separates nothing must be percent-encoded: @ as %40, / as %2F, ? as %3F, # as %23")
    if parts.fragment:
        raise _bad_url(url, "what stands behind # has no meaning; as a letter # is %23")
    options: dict[str, str] = {}
    for part in filter(None, parts.query.split("&")):
        option, _, value = part.partition("=")
        if not value:
            raise _bad_url(url, f"option {shorten(option)} has no value")
        if option in options:
            raise _bad_url(url, f"option {shorten(option)} is given twice")
        options[option] = value
    return parts, options


def _timeout_s(url: str, options: dict[str, str]) -> float:
    """Takes the timeout out of the options."""
    text = options.pop("timeout", None)
    if text is None:
        return _TIMEOUT_S
    found = re.fullmatch(r"([0-9]{1,9})(ms|s|m|h)", text)
    timeout_s = int(found[1]) * _UNITS_S[found[2]] if found else 0.0
    if not 0.001 <= timeout_s <= 3_600:
        raise _bad_url(url, f"option timeout is {shorten(text)}; it must be 1ms to 1h with its unit, 250ms or 2s say")
    return timeout_s


def _bad_url(url: str, problem: str) -> ConfigError:
    return ConfigError(f"cache {_shown(url)}: {problem}; write {_FORMS}")


def _not_installed(url: str, library: str, extra: str) -> ConfigError:
    return ConfigError(
        f"cache {_shown(url)} is read by {library}, which cannot be imported: install grapevine-client[{extra}]"
    )


def _shown(url: str) -> str:
    """A URL for a message: without who logs in, and without options that are passwords. A password that should be percent-encoded
    and is not may hold any letter: what stands before the last @ is hidden."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    login, at, place = rest.rpartition("@")
    if at and _PASSWORD.search(login):
        rest = "***"
    elif at:
        rest = "***@" + place
    return shorten(scheme + separator + _PASSWORD.sub(r"\1***", rest))


def _memcached_ttl(ttl_ms: int) -> int:
    return min(ttl_ms // 1_000, _MEMCACHED_TTL_S_MAX)


def _found(keys: Sequence[str], values: Sequence[bytes | None]) -> dict[str, bytes]:
    return {key: value for key, value in zip(keys, values, strict=True) if value is not None}


def _refuse_decoding(client: Any) -> None:
    if client.connection_pool.connection_kwargs.get("decode_responses"):
        raise ConfigError("the Redis client has decode_responses=True; values are bytes, which it would take for text")
