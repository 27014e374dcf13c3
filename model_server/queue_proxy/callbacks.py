"""Telling receivers of finished predictions: signed, at least once, with patience (https://www.standardwebhooks.com)."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from datetime import UTC, datetime
from http import HTTPStatus
from uuid import UUID

import aiohttp
import orjson
from aiohttp import ClientSession, ClientTimeout, TCPConnector
from standardwebhooks import Webhook
from yarl import URL

from model_server.config import ENV_PREFIX, QueueProxySettings
from model_server.errors import DatabaseUnavailable, SettingsError
from model_server.queue_proxy import metrics
from model_server.queue_proxy.callback_address import GuardedResolver
from model_server.queue_proxy.resources import resource
from model_server.queue_proxy.watch import Watch
from model_server.store import callbacks
from model_server.store.database import Database
from model_server.store.models import UNFINISHED, Record

logger = logging.getLogger(__name__)

AT_ONCE = 10
POLL_SECONDS = 2
FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS = 5.0, 4 * 3600.0
RETRY_FACTOR = 3.0
LEASE_MARGIN_SECONDS = 30


class CallbackDelivery:
    """Delivers callbacks until cancelled; several processes share the work."""

    def __init__(self, settings: QueueProxySettings, database: Database, watch: Watch) -> None:
        self._settings = settings
        self._database = database
        self._due = asyncio.Event()
        self._webhook = _webhook(settings)
        self._session = ClientSession(
            connector=TCPConnector(resolver=GuardedResolver(), use_dns_cache=False, force_close=True),
            timeout=ClientTimeout(total=settings.callback_timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        watch.on_change(self._heard)

    async def run(self) -> None:
        """Deliver what is due, then wait for the next end of a prediction."""
        if self._webhook is None:
            return
        lease = self._settings.callback_timeout_seconds + LEASE_MARGIN_SECONDS
        while True:
            self._due.clear()
            try:
                rows = await callbacks.take_due(self._database, AT_ONCE, lease)
                await asyncio.gather(*(self._deliver(row, self._webhook) for row in rows))
            except DatabaseUnavailable:
                rows = []
            if not rows:
                await self._wait()

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._due.wait()
        except TimeoutError:
            return

    def _heard(self, _prediction: UUID, status: str) -> None:
        if status not in UNFINISHED:
            self._due.set()

    async def _deliver(self, row: Record, webhook: Webhook) -> None:
        problem = await self._post(row, webhook)
        if problem is None:
            metrics.CALLBACKS.labels("delivered").inc()
            await callbacks.delivered(self._database, row.id)
            return
        last = row.tried >= self._settings.callback_attempts
        metrics.CALLBACKS.labels("given_up" if last else "retried").inc()
        logger.info("callback failed", extra={"prediction_id": str(row.id), "attempt": row.tried, "reason": problem})
        await callbacks.failed(self._database, row.id, problem, None if last else backoff_seconds(row.tried))

    async def _post(self, row: Record, webhook: Webhook) -> str | None:
        """Send a callback; return what went wrong, None where the receiver has confirmed it."""
        content = orjson.dumps(
            {
                "type": f"prediction.{row.status}",
                "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "data": resource(row),
            }
        )
        headers = sign(webhook, str(row.id), content)
        try:
            async with self._session.post(
                URL(row.callback_url), data=content, headers=headers, allow_redirects=False
            ) as reply:
                if HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
                    return None
                return f"the receiver answered {reply.status}"
        except TimeoutError:
            return "the receiver did not answer in time"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"the receiver cannot be reached: {type(error).__name__}"


def sign(webhook: Webhook, identifier: str, content: bytes) -> dict[str, str]:
    """Return the headers of a signed callback; ``webhook-id`` is the prediction's id, the same on each attempt."""
    now = datetime.now(UTC)
    return {
        "Content-Type": "application/json",
        "User-Agent": "model-server",
        "webhook-id": identifier,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": webhook.sign(identifier, now, content.decode()),
    }


def backoff_seconds(tried: int) -> float:
    """Return the wait after ``tried`` attempts: 5 s, 15 s, 45 s, … 4 h, give or take a quarter."""
    delay = min(FIRST_RETRY_SECONDS * math.pow(RETRY_FACTOR, min(tried - 1, 16)), MOST_RETRY_SECONDS)
    return delay * random.uniform(0.75, 1.25)  # noqa: S311 - spread, not secrecy


def _webhook(settings: QueueProxySettings) -> Webhook | None:
    if settings.callback_secret is None:
        return None
    try:
        return Webhook(settings.callback_secret.get_secret_value())
    except (ValueError, RuntimeError):
        raise SettingsError(f"{ENV_PREFIX}CALLBACK_SECRET is not base64, with or without whsec_ before it.") from None
