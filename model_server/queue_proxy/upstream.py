"""The predictor as the queue-proxy sees it: connections, probes, and the version that answers."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import ClientResponse, ClientSession, ClientTimeout, TCPConnector
from yarl import URL

from model_server.config import QueueProxySettings
from model_server.errors import BadGateway, GatewayTimeout, Unavailable
from model_server.queue_proxy.cache import Reply
from model_server.schema import MODEL_VERSION_HEADER

READY_PATH = "/v2/health/ready"
CONNECT_SECONDS = 5
PROBE_SECONDS = 2
KEEP_ALIVE_SECONDS = 30
"""Below the 65 s after which the predictor drops an idle connection, so that we never send on one it has dropped."""

HOP_BY_HOP = {
    b"connection",
    b"host",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
"""RFC 9110, section 7.6.1, and the host, which is the predictor's own."""

Body = bytes | AsyncIterable[bytes] | None
Headers = Mapping[str, str] | Sequence[tuple[str, str]]


class Upstream:
    """HTTP to one predictor. Create it inside a running loop."""

    def __init__(self, settings: QueueProxySettings, url: str) -> None:
        self.url = url.rstrip("/")
        self._versions: dict[str, str] = {}
        self._on_answer: list[Callable[[str, str], None]] = []
        self._session = ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=ClientTimeout(total=settings.predictor_timeout_seconds, sock_connect=CONNECT_SECONDS),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def version(self, model: str) -> str | None:
        """Return the version that answered last for a model, None before the first answer."""
        return self._versions.get(model)

    def on_answer(self, tell: Callable[[str, str], None]) -> None:
        """Call ``tell(model, version)`` whenever a version answers for a model."""
        self._on_answer.append(tell)

    @asynccontextmanager
    async def send(
        self, method: str, target: str, headers: Headers, body: Body, *, model: str | None = None
    ) -> AsyncIterator[ClientResponse]:
        """Send a request to ``target``, an encoded path with its query.

        Raises Unavailable where nobody listens, GatewayTimeout, BadGateway where the connection breaks.
        """
        if self._session.closed:
            raise Unavailable("The predictor has been taken away. Try again.")
        url = URL(self.url + target, encoded=True)
        try:
            async with self._session.request(
                method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                if model and (version := response.headers.get(MODEL_VERSION_HEADER)):
                    self._versions[model] = version
                    for tell in self._on_answer:
                        tell(model, version)
                yield response
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError):
            raise Unavailable("The predictor cannot be reached. Try again later.") from None
        except TimeoutError:
            raise GatewayTimeout("The predictor did not answer in time.") from None
        except (aiohttp.ClientError, ConnectionError):
            raise BadGateway("The predictor broke off before its answer was complete.") from None

    async def is_ready(self) -> bool:
        """Whether the predictor says that it can predict."""
        try:
            timeout = ClientTimeout(total=PROBE_SECONDS)
            async with self._session.get(self.url + READY_PATH, timeout=timeout) as response:
                return response.status == 200
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


def end_to_end_headers(response: ClientResponse) -> list[tuple[bytes, bytes]]:
    """Return the headers of a reply that concern its reader, names in lower case."""
    return [(name.lower(), value) for name, value in response.raw_headers if name.lower() not in HOP_BY_HOP]


async def read_reply(response: ClientResponse) -> Reply:
    """Read a reply to its end."""
    body = await response.read()
    return Reply(response.status, end_to_end_headers(response), body, response.headers.get(MODEL_VERSION_HEADER))
