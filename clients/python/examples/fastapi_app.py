"""A shop's carts over FastAPI: reads through the cache, writes that invalidate, sessions that see their own writes.

    GRAPEVINE_ENDPOINT=127.0.0.1:7400 CACHE_URL=redis://127.0.0.1:6379/0 uvicorn fastapi_app:app

A client that sends back the header `grapevine-session` that a write answered sees that write at every instance, whichever sidecar
that asks. The source is an SQLite file, `SHOP_DB`.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

from grapevine_client import (
    SESSION_HEADER,
    AsyncClient,
    NoSidecar,
    Refused,
    Session,
    SessionError,
    cached,
    set_default_client,
    use_session,
)


class Item(BaseModel):
    """What a request to add an item says."""

    name: str
    price: int


def database() -> sqlite3.Connection:
    connection = sqlite3.connect(os.environ.get("SHOP_DB", "shop.db"))
    connection.execute("CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, cart INT, name TEXT, price INT)")
    return connection


def _select(cart: int) -> list[dict[str, Any]]:
    with database() as connection:
        rows = connection.execute("SELECT name, price FROM items WHERE cart = ? ORDER BY id", (cart,)).fetchall()
    return [{"name": name, "price": price} for name, price in rows]


def _insert(cart: int, item: Item) -> None:
    with database() as connection:
        connection.execute("INSERT INTO items (cart, name, price) VALUES (?, ?, ?)", (cart, item.name, item.price))


@cached(classes=["carts/{cart}"], address="items_of_cart::{cart}")
async def items_of_cart(cart: int) -> list[dict[str, Any]]:
    return await asyncio.to_thread(_select, cart)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncClient(
        os.environ.get("GRAPEVINE_ENDPOINT", "127.0.0.1:7400"),
        cache=os.environ.get("CACHE_URL", "memory://"),
    ) as client:
        set_default_client(client)
        app.state.grapevine = client
        yield


app = FastAPI(lifespan=lifespan)


@app.middleware("http")
async def session(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """What the caller has seen, it sees in all reads of this request."""
    try:
        seen = Session.parse(request.headers.get(SESSION_HEADER, ""))
    except SessionError as error:
        return Response(str(error), status_code=400)
    with use_session(seen):
        return await call_next(request)


def grapevine(request: Request) -> AsyncClient:
    client: AsyncClient = request.app.state.grapevine
    return client


Grapevine = Annotated[AsyncClient, Depends(grapevine)]


@app.get("/carts/{cart}")
async def get_cart(cart: int) -> list[dict[str, Any]]:
    return await items_of_cart(cart)


@app.post("/carts/{cart}/items", status_code=201)
async def add_item(cart: int, item: Item, response: Response, client: Grapevine) -> None:
    try:
        # Declared before the commit: the cart is invalidated even if this process dies behind it.
        async with client.begin_write([f"carts/{cart}"]) as write:
            await asyncio.to_thread(_insert, cart, item)
    except (NoSidecar, Refused) as error:
        # Nobody answered, or what answered is no sidecar's port for applications: nobody would invalidate for this write.
        raise HTTPException(503, str(error)) from error
    assert write.outcome is not None
    response.headers[SESSION_HEADER] = write.outcome.session_token.hex()


@app.get("/metrics/cache")
async def metrics(client: Grapevine) -> dict[str, int]:
    return dict(client.stats().items())
