"""Telling receivers of finished predictions: signed, at least once, with patience (https://www.standardwebhooks.com)."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus

import aiohttp
import orjson
from aiohttp import ClientSession, ClientTimeout, TCPConnector
from standardwebhooks import Webhook
from yarl import URL

from model_server.background import Background
from model_server.config import ENV_PREFIX, QueueProxySettings
from model_server.errors import SettingsError
from model_server.http.replies import timestamp
from model_server.queue_proxy import metrics
from model_server.queue_proxy.callback_address import GuardedResolver
from model_server.queue_proxy.delivery import Delivery, Patience
from model_server.queue_proxy.resources import resource
from model_server.queue_proxy.watch import Watch
from model_server.store.database import Database
from model_server.store.models import Record

FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS = 5.0, 4 * 3600.0


class CallbackDelivery:
    """Delivers callbacks until cancelled."""

    def __init__(self, settings: QueueProxySettings, database: Database, watch: Watch) -> None:
        self._webhook = _webhook(settings)
        patience = Patience(
            settings.callback_timeout_seconds, settings.callback_attempts, FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS
        )
        self._delivery = Delivery(
            "callback", self._post, patience=patience, outcomes=metrics.CALLBACKS, database=database, watch=watch
        )
        self._session = ClientSession(
            connector=TCPConnector(resolver=GuardedResolver(), use_dns_cache=False, force_close=True),
            timeout=ClientTimeout(total=settings.callback_timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def run(self, background: Background) -> None:
        """Deliver, where there is a key to sign with."""
        if self._webhook is not None:
            await self._delivery.run(background)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _post(self, row: Record) -> str | None:
        """Send a callback; return what went wrong, None where the receiver has confirmed it."""
        assert self._webhook is not None  # noqa: S101 - without it nothing runs
        content = orjson.dumps(
            {
                "type": f"prediction.{row.status}",
                "timestamp": timestamp(datetime.now(UTC)),
                "data": resource(row),
            }
        )
        headers = sign(self._webhook, str(row.id), content)
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


def _webhook(settings: QueueProxySettings) -> Webhook | None:
    if settings.callback_secret is None:
        return None
    try:
        return Webhook(settings.callback_secret.get_secret_value())
    except (ValueError, RuntimeError):
        raise SettingsError(f"{ENV_PREFIX}CALLBACK_SECRET is not base64, with or without whsec_ before it.") from None
