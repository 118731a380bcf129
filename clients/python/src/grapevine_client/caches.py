"""Caches behind a small protocol, and adapters over the libraries that speak to them.

An adapter only moves bytes. It raises whatever its library raises: the fence takes that for a miss, or for a value that was not
stored. Keys are what sidecars answer as cache addresses: at most 250 bytes of UTF-8 without whitespace and control bytes.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from grapevine_client.errors import ConfigError
from grapevine_client.names import shorten

if TYPE_CHECKING:
    import redis
    import redis.asyncio

# memcached takes what is above for a date.
_MEMCACHED_TTL_S_MAX = 30 * 24 * 3_600
_TIMEOUT_S = 1.0


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
    def connect(cls, host: str, port: int, *, connections_max: int = 64) -> PymemcacheCache:
        try:
            from pymemcache.client.base import PooledClient
        except ImportError as error:
            raise _not_installed(f"memcached://{host}:{port}", "pymemcache", "memcached") from error

        return cls(
            PooledClient(
                (host, port),
                max_pool_size=connections_max,
                connect_timeout=_TIMEOUT_S,
                timeout=_TIMEOUT_S,
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
    """A cache by its URL: `memcached://host:port`, `redis://host:port/db` or `memory://`."""
    if not isinstance(url, str):
        raise ConfigError(f"cache {shorten(url)}: it is not a str")
    if url == "memory://":
        return MemoryCache()
    if url.startswith("memcached://"):
        return PymemcacheCache.connect(*_host_and_port(url))
    if _is_redis(url):
        try:
            import redis
        except ImportError as error:
            raise _not_installed(url, "redis", "redis") from error
        return RedisCache(redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S))
    raise _bad_url(url)


def connect_async_cache(url: str) -> AsyncCache:
    """The same for asyncio; memcached by threads."""
    if _is_redis(url):
        try:
            import redis.asyncio
        except ImportError as error:
            raise _not_installed(url, "redis", "redis") from error
        client = redis.asyncio.Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        return AsyncRedisCache(client)
    cache = connect_cache(url)
    return InlineCache(cache) if isinstance(cache, MemoryCache) else ExecutorCache(cache)


def _is_redis(url: object) -> bool:
    return isinstance(url, str) and url.startswith(("redis://", "rediss://", "unix://"))


def _bad_url(url: str) -> ConfigError:
    return ConfigError(f"cache {shorten(url)}: write memcached://host:port, redis://host:port/db or memory://")


def _not_installed(url: str, library: str, extra: str) -> ConfigError:
    return ConfigError(
        f"cache {shorten(url)} is read by {library}, which cannot be imported: install grapevine-client[{extra}]"
    )


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _bad_url(url) from None
    if not host or port is None:
        raise _bad_url(url)
    return host, port


def _memcached_ttl(ttl_ms: int) -> int:
    return min(ttl_ms // 1_000, _MEMCACHED_TTL_S_MAX)


def _found(keys: Sequence[str], values: Sequence[bytes | None]) -> dict[str, bytes]:
    return {key: value for key, value in zip(keys, values, strict=True) if value is not None}


def _refuse_decoding(client: Any) -> None:
    if client.connection_pool.connection_kwargs.get("decode_responses"):
        raise ConfigError("the Redis client has decode_responses=True; values are bytes, which it would take for text")
