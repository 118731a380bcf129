"""What a cached read costs beside a bare `get` of pymemcache, in one process and one run.

    GRAPEVINE_BIN=target/release/grapevine python clients/python/benchmarks/overhead.py [--json] [--rounds N] [--reads N]

It starts three sidecars and a memcached on loopback. In every round each arm does the same number of reads of one value that the
cache has, one after another (but for the concurrent ones), in an order drawn anew; an arm's figure of a round is its time per
read. Told are the median and the quartiles over the rounds, and the median of the differences to the bare arm of the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

sys.path += [
    str(pathlib.Path(__file__).parents[1] / "tests"),
    str(pathlib.Path(__file__).parents[3] / "integration-tests"),
]

from pymemcache.client.base import PooledClient

import cluster as kit
import pykit
from grapevine_client import AsyncClient, Client, How, PymemcacheCache, Settings, cached

BARE = "pymemcache get"
TASKS = 32
VALUE = {"items": [{"id": number, "name": f"item {number}", "price": 100 * number} for number in range(10)]}
CLASSES, ADDRESS = ["get_items_in_cart/13"], "get_items_in_cart::13:10:30"
SETTINGS = Settings(resolve_deadline_s=5)


def never() -> Any:
    raise AssertionError("a read missed")


async def never_async() -> Any:
    never()


def timed(read: Callable[[], Any]) -> Callable[[int], float]:
    """Seconds per read."""

    def arm(reads: int) -> float:
        began = time.perf_counter()
        for _ in range(reads):
            read()
        return (time.perf_counter() - began) / reads

    return arm


def arms(
    sidecar: kit.Sidecar, memcached_url: str, loop: asyncio.AbstractEventLoop
) -> dict[str, Callable[[int], float]]:
    host, port = memcached_url.removeprefix("memcached://").split(":")
    bare = PooledClient((host, int(port)), no_delay=True, timeout=1)
    tcp = Client(sidecar.tcp, cache=memcached_url, settings=SETTINGS)
    unix = Client(sidecar.unix, cache=memcached_url, settings=SETTINGS)
    task = AsyncClient(sidecar.unix, cache=memcached_url, settings=SETTINGS)
    for client in (tcp, unix):
        client.wait_until_ready()
    tcp.get_or_fill(ADDRESS, CLASSES, lambda: VALUE)
    for client in (tcp, unix):
        assert client.get_or_fill_outcome(ADDRESS, CLASSES, never).how is How.HIT
    key = tcp.resolve(ADDRESS, CLASSES).address.encode()
    assert json.loads(bare.get(key)) == VALUE

    @cached(classes=["get_items_in_cart/{cart}"], address="get_items_in_cart::{cart}:{limit}:{offset}", client=unix)
    def items_of_cart(cart: int, limit: int, offset: int) -> Any:
        never()

    async def one(reads: int) -> None:
        for _ in range(reads):
            await task.get_or_fill(ADDRESS, CLASSES, never_async)

    def alone(reads: int) -> float:
        began = time.perf_counter()
        loop.run_until_complete(one(reads))
        return (time.perf_counter() - began) / reads

    async def many(reads: int) -> None:
        await asyncio.gather(*(one(max(1, reads // TASKS)) for _ in range(TASKS)))

    def together(reads: int) -> float:
        began = time.perf_counter()
        loop.run_until_complete(many(reads))
        return (time.perf_counter() - began) / (max(1, reads // TASKS) * TASKS)

    bare_cache = PymemcacheCache(bare)
    return {
        BARE: timed(lambda: bare.get(key)),
        "pymemcache get and json.loads": timed(lambda: json.loads(bare_cache.get(key.decode()) or b"")),
        "resolve, Unix socket": timed(lambda: unix.resolve(ADDRESS, CLASSES)),
        "get_or_fill, Unix socket": timed(lambda: unix.get_or_fill(ADDRESS, CLASSES, never)),
        "get_or_fill, TCP": timed(lambda: tcp.get_or_fill(ADDRESS, CLASSES, never)),
        "@cached, Unix socket": timed(lambda: items_of_cart(13, 10, 30)),
        "asyncio get_or_fill, alone": alone,
        f"asyncio get_or_fill, {TASKS} tasks": together,
    }


def measure(found: dict[str, Callable[[int], float]], rounds: int, reads: int, seed: int) -> dict[str, list[float]]:
    order = random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in found}
    for arm in found.values():
        arm(reads)
    for _ in range(rounds):
        names = list(found)
        order.shuffle(names)
        for name in names:
            times[name].append(found[name](reads) * 1e6)
    return times


def report(times: dict[str, list[float]], rounds: int, reads: int, seed: int) -> dict[str, Any]:
    rows = []
    for name, each in times.items():
        low, middle, high = statistics.quantiles(each, n=4)
        beyond = statistics.median(mine - bare for mine, bare in zip(each, times[BARE], strict=True))
        rows.append(
            {
                "arm": name,
                "median_us": round(middle, 1),
                "quartiles_us": [round(low, 1), round(high, 1)],
                "beyond_bare_us": round(beyond, 1),
            }
        )
    return {
        "python": platform.python_version(),
        "rounds": rounds,
        "reads_per_round": reads,
        "seed": seed,
        "arms": rows,
    }


def whole(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"{number} is below 2")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--rounds", type=whole, default=30, help="rounds, at least 2 (default: 30)")
    parser.add_argument("--reads", type=whole, default=1_000, help="reads of each arm in a round (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the arms (default: 1)")
    options = parser.parse_args()
    loop = asyncio.new_event_loop()
    with (
        tempfile.TemporaryDirectory() as directory,
        pykit.memcached() as memcached,
        kit.three(pathlib.Path(directory), memcached.url) as cluster,
    ):
        found = arms(cluster[0], memcached.url, loop)
        told = report(
            measure(found, options.rounds, options.reads, options.seed), options.rounds, options.reads, options.seed
        )
    if options.json:
        print(json.dumps(told))
        return
    print(f"Python {told['python']}, {options.rounds} rounds of {options.reads} reads, microseconds per read")
    print(f"{'':34}{'median':>8}{'quartiles':>18}{'beyond bare':>14}")
    for row in told["arms"]:
        low, high = row["quartiles_us"]
        print(f"{row['arm']:34}{row['median_us']:8.0f}{f'{low:.0f} to {high:.0f}':>18}{row['beyond_bare_us']:14.0f}")


if __name__ == "__main__":
    main()
