"""`@cached` over plain and coroutine functions."""

from __future__ import annotations

import asyncio
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cluster import Cluster
from conftest import PATIENT
from grapevine_client import (
    AsyncClient,
    Client,
    ConfigError,
    InvalidRequest,
    cached,
    depends_on,
    set_default_client,
)

Clients = Callable[..., Client]


def test_a_decorated_function_is_computed_once_and_after_each_invalidation(clients: Clients, n: int) -> None:
    client, calls = clients(), []

    @cached(classes=["cart/{cart}"], address="items_of_cart::{cart}:{limit}:{offset}", client=client)
    def items_of_cart(cart: int, limit: int = 10, *, offset: int = 0) -> list[int]:
        """The items of a cart."""
        calls.append((cart, limit, offset))
        depends_on("prices")
        return list(range(offset, offset + limit))

    assert (items_of_cart.__name__, items_of_cart.__doc__) == ("items_of_cart", "The items of a cart.")
    assert items_of_cart(n, 2) == items_of_cart(cart=n, limit=2, offset=0) == [0, 1]
    assert items_of_cart(n, 2, offset=5) == [5, 6]
    assert calls == [(n, 2, 0), (n, 2, 5)]
    assert items_of_cart.address_of(n, 2) == f"items_of_cart::{n}:2:0"
    assert items_of_cart.classes_of(n) == [f"cart/{n}"]
    items_of_cart.invalidate(n)
    assert items_of_cart(n, 2) == [0, 1]
    client.invalidate([f"cart/{n}"])
    items_of_cart(n, 2)
    client.invalidate(["prices"])
    items_of_cart(n, 2)
    assert len(calls) == 5
    items_of_cart.__wrapped__(n)
    assert len(calls) == 6


def test_a_coroutine_function_takes_the_default_client(cluster: Cluster, n: int) -> None:
    calls = 0

    @cached(classes=lambda cart: [f"cart/{cart}", "carts"], ttl_s=60)
    async def total(cart: int) -> int:
        nonlocal calls
        calls += 1
        return cart

    async def test() -> None:
        async with AsyncClient(cluster[0].tcp, cache="memory://", settings=PATIENT) as client:
            set_default_client(client)
            assert await total(n) == await total(n) == n
            assert calls == 1
            await total.invalidate(n)
            assert await total(n) == n
            assert calls == 2

    asyncio.run(test())


def test_methods_are_decorated_too(clients: Clients, n: int) -> None:
    class Shop:
        def __init__(self, number: int) -> None:
            self.number = number
            self.calls = 0

        @cached(classes=["shop/{self.number}"], address="shop::{self.number}:{what}", client=clients())
        def price(self, what: str) -> str:
            self.calls += 1
            return f"{what} of {self.number}"

    one, other = Shop(n), Shop(n + 1_000_000)
    assert one.price("apple") == one.price("apple") == f"apple of {n}"
    assert other.price("apple") == f"apple of {n + 1_000_000}"
    assert (one.calls, other.calls) == (1, 1)


def test_an_address_is_made_of_plain_arguments(clients: Clients) -> None:
    client = clients()

    @cached(classes=["a"], client=client)
    def plain(*args: Any, **more: Any) -> int:
        return 1

    made = {
        plain.address_of(*args)
        for args in (
            (1,),
            ("1",),
            (1.0,),
            (True,),
            (None,),
            ("1", "2"),
            ("1:2",),
            ([1, [2]],),
            ("a b",),
            ("ü",),
            ("x" * 300,),
            ("y" * 300,),
        )
    }
    assert len(made) == 12
    assert plain.address_of(a=1) == plain.address_of(a=1)
    assert all(len(address) <= 250 and not any(letter.isspace() for letter in address) for address in made)
    assert plain("x" * 300) == 1
    with pytest.raises(ConfigError, match=r"argument args of .*plain is .*, which has no one way to be written"):
        plain(object())


def test_wrong_decorations_are_named_where_they_stand(clients: Clients, cluster: Cluster) -> None:
    client = clients()

    def function(cart: int) -> int:
        return cart

    async def coroutine(cart: int) -> int:
        return cart

    for arguments, says in (
        (
            {"classes": ["cart/{card}"]},
            r"classes\[0\] of .*function is 'cart/{card}', which names the argument 'card'; it has: cart",
        ),
        ({"classes": ["a"], "address": "{0}"}, "address of .* names the argument '0'"),
        ({"classes": ["a"], "address": "{cart"}, "which is no template"),
        ({"classes": []}, "0 classes are outside 1 to 16"),
        ({"classes": "cart/{cart}"}, "classes is 'cart/{cart}'; it must be a list of templates"),
        ({"classes": [7]}, r"classes\[0\] of .* is 7; it must be a str"),
        ({"classes": ["a"], "client": AsyncClient(cluster[0].tcp)}, "is no coroutine function: it takes a Client"),
    ):
        with pytest.raises(ConfigError, match=says):
            cached(**arguments)(function)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is a coroutine function: it takes an AsyncClient"):
        cached(classes=["a"], client=client)(coroutine)
    with pytest.raises(InvalidRequest, match="ttl_s: 0 s is outside"):
        cached(classes=["a"], ttl_s=0)
    with pytest.raises(ConfigError, match="client is a str"):
        set_default_client("127.0.0.1:7400")  # type: ignore[arg-type]
    # What is filled in is checked at the call.
    with pytest.raises(InvalidRequest, match=r"classes\[0\]: 'cart/a b' has the byte 0x20"):
        cached(classes=["cart/{cart}"], client=client)(function)("a b")  # type: ignore[arg-type]


def test_without_a_client_a_call_says_what_to_do() -> None:
    program = """
from grapevine_client import cached, ConfigError
@cached(classes=["a"])
def f(): return 1
try:
    f()
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "set_default_client with a Client first" in done.stdout


def test_the_example_of_the_readme_runs(cluster: Cluster, memcached_url: str, n: int) -> None:
    example = pathlib.Path(__file__).parents[1] / "examples" / "cart.py"
    done = subprocess.run(
        [sys.executable, str(example), cluster[0].tcp, memcached_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [
        ["first", "filled"],
        ["again", "hit"],
        ["changed", "filled"],
        ["after", "hit"],
    ]
    assert [line[2] for line in lines] == ["2", "2", "3", "3"]
