"""The socket by which the owner of the data folder asks for changes while the system runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from model_server.client.control import Order, RollBack, RollOut, socket_path
from model_server.errors import ModelServerError

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 10
OWNER_ALONE = 0o177
"""What the mode of the socket lacks: it is 0600."""
_ORDER: TypeAdapter[RollOut | RollBack] = TypeAdapter(Order)

Say = Callable[[str], None]
Carry = Callable[[RollOut | RollBack, Say], Awaitable[str]]


@asynccontextmanager
async def listening(folder: Path, carry: Carry) -> AsyncIterator[None]:
    """Take orders for ``carry``, which says how far it is and returns what it has done."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await _serve(reader, writer, carry)
        writer.close()

    server = await asyncio.start_unix_server(serve, sock=_bound(folder))
    try:
        yield
    finally:
        server.close()
        _remove(folder)


def _bound(folder: Path) -> socket.socket:
    _remove(folder)  # of a system that was killed: the folder is reserved for this one
    listener = socket.socket(socket.AF_UNIX)
    with socket_path(folder) as path:
        before = os.umask(OWNER_ALONE)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
    return listener


def _remove(folder: Path) -> None:
    with socket_path(folder) as path:
        Path(path).unlink(missing_ok=True)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, carry: Carry) -> None:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            order = _ORDER.validate_json(await reader.readline())
    except (TimeoutError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it has no end"
        _send(writer, "error", f"The request is not understood: {reason}.")
        return

    def say(sentence: str) -> None:
        logger.info("%s", sentence)
        _send(writer, "progress", sentence)

    carrying = asyncio.ensure_future(carry(order, say))
    left = asyncio.create_task(reader.read())
    await asyncio.wait({carrying, left}, return_when=asyncio.FIRST_COMPLETED)
    left.cancel()
    if not carrying.done():
        logger.info("called off: who has asked for it has gone")
        carrying.cancel()
        await asyncio.wait({carrying})
    if not carrying.cancelled():
        _send(writer, *_outcome(carrying))
        await writer.drain()


def _outcome(carried: asyncio.Future[str]) -> tuple[str, str]:
    error = carried.exception()
    if error is None:
        logger.info("%s", carried.result())
        return "done", carried.result()
    if isinstance(error, ModelServerError):
        logger.warning("%s", error)
        return "error", str(error)
    logger.error("a change failed", exc_info=error)
    return "error", "It failed for a reason of the server's own; its log has it."


def _send(writer: asyncio.StreamWriter, kind: str, sentence: str) -> None:
    if not writer.is_closing():
        writer.write(json.dumps({kind: sentence}).encode() + b"\n")
