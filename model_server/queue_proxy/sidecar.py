"""Accounts and feedback: passed to the feedback service, so that page and API share one address."""

from __future__ import annotations

import aiohttp
from aiohttp import ClientResponse, ClientSession, ClientTimeout, TCPConnector
from starlette.types import Receive, Scope, Send
from yarl import URL

from model_server import telemetry
from model_server.config import QueueProxySettings
from model_server.errors import BadGateway, GatewayTimeout, Unavailable
from model_server.http import body
from model_server.http.client_address import FORWARDED_FOR, client_address
from model_server.queue_proxy.end_to_end import as_text, end_to_end
from model_server.queue_proxy.passthrough import BODILESS
from model_server.queue_proxy.predictor_reply import check_status
from model_server.schema import REQUEST_ID_HEADER

SIDECAR_PATHS = ("/login", "/user", "/user/{rest:path}", "/feedback", "/feedback/{rest:path}")
OURS = frozenset({b"x-request-id", b"x-forwarded-for", b"forwarded"})
"""What the caller says of its address ends here: the feedback service hears what we have found."""
CONNECT_SECONDS = 2
SILENCE_SECONDS = 60
"""An export may take long as a whole, and says something all the while."""
KEEP_ALIVE_SECONDS = 30
"""Below the 75 s after which the feedback service drops an idle connection."""


class Sidecar:
    """ASGI application in front of the feedback service. Create it inside a running loop."""

    def __init__(self, settings: QueueProxySettings) -> None:
        self._settings = settings
        self._base = settings.feedback_url.rstrip("/")
        self._session = ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises Unavailable where the feedback service is away."""
        data = None if scope["method"] in BODILESS else await body.read(scope, receive, self._settings)
        try:
            async with self._session.request(
                scope["method"],
                URL(self._base + _target(scope), encoded=True),
                headers=self._headers(scope),
                data=data,
                allow_redirects=False,
            ) as response:
                body.release(scope)
                await _relay(response, send)
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError):
            raise Unavailable("Accounts and feedback cannot be reached now. Try again later.") from None
        except TimeoutError:
            raise GatewayTimeout("The feedback service did not answer in time.") from None
        except (aiohttp.ClientError, ConnectionError):
            raise BadGateway("The feedback service broke off before its answer was complete.") from None

    def _headers(self, scope: Scope) -> list[tuple[str, str]]:
        address = client_address(scope, self._settings.trusted_proxies)
        return [
            *as_text(end_to_end(scope["headers"], OURS)),
            (FORWARDED_FOR, address),
            (REQUEST_ID_HEADER, telemetry.request_id.get()),
        ]

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


async def _relay(response: ClientResponse, send: Send) -> None:
    """Pass a reply on as it arrives: an export may be larger than what fits into memory."""
    fields, status = end_to_end(response.raw_headers), check_status(response.status)
    if response.content_length is not None:
        fields.append((b"content-length", str(response.content_length).encode()))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    async for part in response.content.iter_any():
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _target(scope: Scope) -> str:
    path = scope["raw_path"].decode("latin-1")
    return f"{path}?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else path
