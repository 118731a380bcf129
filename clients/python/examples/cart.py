"""A cart whose items are cached: python examples/cart.py [SIDECAR] [CACHE]"""

import sys

from grapevine_client import Client

ITEMS = {13: ["apple", "pear"]}


def items_of_cart(cart: int) -> list[str]:
    """What stands for a database."""
    return list(ITEMS[cart])


def main(sidecar: str = "127.0.0.1:7400", cache: str = "memory://") -> None:
    with Client(sidecar, cache=cache) as client:
        client.wait_until_ready()

        def show(what: str) -> None:
            read = client.get_or_fill_outcome(
                "get_items_in_cart::13:10:0", ["get_items_in_cart/13"], lambda: items_of_cart(13)
            )
            print(f"{what:8} {read.how.value:8} {len(read.value)} items")

        show("first")
        show("again")
        # A write: commit, then invalidate, then answer whoever asked for it.
        ITEMS[13].append("plum")
        client.invalidate(["get_items_in_cart/13"])
        show("changed")
        show("after")


if __name__ == "__main__":
    main(*sys.argv[1:])
