"""What strangers do to a running system: heads that do not end, replies left unread, pictures that cost too much."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import picture_bombs
from chaos_load import Load
from local_system import LocalSystem
from pictures import draw, encode

CONNECTIONS = 100
SECONDS = 5.0
LARGE_BYTES = 6 * 2**20
BOMBS = {
    "tiles that are one block": picture_bombs.shared_tiles(1000, 65_536),
    "a giant tile": picture_bombs.giant_tile(32_768, 16_384),
    "scans without end": picture_bombs.short_scans(10_000, 2000, 2000),
    "90 scans": picture_bombs.short_scans(90, 6000, 6000),
    "a canvas without a picture": picture_bombs.webp_canvas(7000, 7000),
}
REFUSED = {400, 413}


@contextlib.asynccontextmanager
async def connections(system: LocalSystem, request: bytes) -> AsyncIterator[None]:
    """Open many connections, send the same on each, and read nothing."""
    address = urlsplit(system.url)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(CONNECTIONS):
            _, writer = await asyncio.open_connection(address.hostname, address.port, limit=1024)
            stack.callback(writer.transport.abort)
            writer.write(request)
        yield


async def send_slow_heads(system: LocalSystem, _: Load) -> None:
    """Begin a hundred requests and go on with none."""
    async with connections(system, b"POST /v1/models/x:predict HTTP/1.1\r\nHost: localhost\r\nX: "):
        await asyncio.sleep(SECONDS)


async def leave_replies_unread(system: LocalSystem, load: Load) -> None:
    """Ask a hundred times for the same large picture, and take nothing of it."""
    content = encode(draw()) + bytes(LARGE_BYTES)
    identifier = await load.submit_outside(content)
    request = f"GET /v1/predictions/{identifier}/image HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with connections(system, request.encode()):
        await asyncio.sleep(SECONDS)


async def send_bombs(_: LocalSystem, load: Load) -> None:
    """Send each kind of bomb at once, where it is to be refused as its caller's fault, and through the queue."""
    for name, content in BOMBS.items():
        await asyncio.gather(load.send_picture(f"bad, {name}", content, REFUSED), load.submit_outside(content))
