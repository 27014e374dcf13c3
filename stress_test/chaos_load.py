"""Constant mixed load that writes down every reply: synchronous and queued requests, a tenth of them bad."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp

import requests_checked
from bad_inputs import V1_BODIES, V2_BODIES
from chaos_ledger import Ledger
from photographs import Photograph

BAD_SHARE = 0.1
PAUSE_SECONDS = 0.02
PATIENCE_SECONDS = 90
TIMEOUT = aiohttp.ClientTimeout(total=60)


class Load:
    """``callers`` synchronous clients and as many of the queue."""

    def __init__(self, url: str, model: str, pictures: list[Photograph], ledger: Ledger, callers: int) -> None:
        self._url = url
        self._predict = f"{url}/v1/models/{model}:predict"
        self._infer = f"{url}/v2/models/{model}/infer"
        self._pictures = pictures
        self._ledger = ledger
        self._callers = callers
        self._over = asyncio.Event()
        self._session: aiohttp.ClientSession

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Keep the load up until the block is left; then each caller ends with its last reply."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as self._session:
            self._over.clear()
            async with asyncio.TaskGroup() as group:
                for _ in range(self._callers):
                    group.create_task(self._repeat(self._call))
                    group.create_task(self._repeat(self._submit))
                try:
                    yield self
                finally:
                    self._over.set()

    async def _repeat(self, one: Callable[[], Awaitable[None]]) -> None:
        while not self._over.is_set():
            await one()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _call(self) -> None:
        if random.random() < 2 * BAD_SHARE:  # half of all requests are synchronous, and all bad ones are
            await self._call_badly()
            return
        photograph = self._picture()
        url, body, content_type = random.choice([
            (self._predict, photograph.content, photograph.media_type),
            (self._predict, requests_checked.v1_base64(photograph), "application/json"),
            (self._infer, requests_checked.v2(photograph), "application/json"),
        ])  # fmt: skip
        await self.send("good", url, body, {"Content-Type": content_type}, {200})

    async def _call_badly(self) -> None:
        name, url = random.choice(
            [*((name, self._predict) for name in V1_BODIES), *((n, self._infer) for n in V2_BODIES)]
        )
        if url == self._predict:
            body, content_type, status, _ = V1_BODIES[name]
        else:
            (body, status, _), content_type = V2_BODIES[name], "application/json"
        await self.send(f"bad, {name}", url, body, {"Content-Type": content_type}, {status})

    async def _submit(self) -> None:
        """Submit one picture under its key until it is accepted."""
        key, photograph = str(uuid.uuid4()), self._picture()
        headers = {"Content-Type": photograph.media_type, "Prefer": "respond-async", "Idempotency-Key": key}
        deadline = time.monotonic() + PATIENCE_SECONDS
        for attempt in itertools.count():
            reply = await self.send("submitted", self._predict, photograph.content, headers, {202})
            if reply and reply[0] == 202:
                self._ledger.accept(key, reply[1].rpartition("/")[2])
                return
            if time.monotonic() > deadline:
                self._ledger.never_accepted += 1
                return
            await asyncio.sleep(min(2, 0.1 * 2**attempt))

    async def send(
        self, kind: str, url: str, body: bytes, headers: dict[str, str], allowed: set[int]
    ) -> tuple[int, str] | None:
        """Return status and Location, None where the connection broke; either is written down."""
        try:
            async with self._session.post(url, data=body, headers=headers) as reply:
                content = await reply.read()
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            self._ledger.lost.append(time.monotonic())
            return None
        self._ledger.note(kind, reply.status, reply.headers, content, allowed)
        return reply.status, reply.headers.get("Location", "")

    async def send_picture(self, kind: str, content: bytes, allowed: set[int]) -> None:
        """Send one picture to be classified at once."""
        await self.send(kind, self._predict, content, {"Content-Type": "image/jpeg"}, allowed)

    async def submit_outside(self, content: bytes) -> str:
        """Submit a picture until it is accepted, outside of the load's own; return its id. It may end in any way."""
        headers = {"Content-Type": "image/jpeg", "Prefer": "respond-async", "Idempotency-Key": str(uuid.uuid4())}
        while True:
            reply = await self.send("submitted by a stranger", self._predict, content, headers, {202})
            if reply and reply[0] == 202:
                return reply[1].rpartition("/")[2]
            await asyncio.sleep(0.5)

    async def flood(self, requests: int) -> None:
        """Send so many good requests at once."""
        pictures = [self._picture() for _ in range(requests)]
        headers = [{"Content-Type": picture.media_type} for picture in pictures]
        await asyncio.gather(
            *(self.send("flood", self._predict, picture.content, head, {200})
              for picture, head in zip(pictures, headers, strict=True))
        )  # fmt: skip

    async def send_many(self, instances: int) -> None:
        """Send one request with so many pictures."""
        content = requests_checked.v1_base64(*(self._picture() for _ in range(instances)))
        await self.send("many pictures", self._predict, content, requests_checked.JSON, {200})

    def _picture(self) -> Photograph:
        return random.choice(self._pictures).unlike_any_other()
