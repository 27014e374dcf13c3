"""The predictor as the queue-proxy sees it: connections, probes, and the version that answers."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

import aiohttp
from aiohttp import ClientResponse, ClientSession, ClientTimeout, TCPConnector
from yarl import URL

from model_server.config import QueueProxySettings
from model_server.errors import BadGateway, GatewayTimeout, Unavailable
from model_server.http.body import SMALL, Buffer, Share
from model_server.queue_proxy.cache import Reply
from model_server.queue_proxy.end_to_end import end_to_end, is_well_formed
from model_server.queue_proxy.predictor_reply import check_status, version_of
from model_server.schema import MODEL_VERSION_HEADER

READY_PATH = "/v2/health/ready"
CONNECT_SECONDS = 5
PROBE_SECONDS = 2
KEEP_ALIVE_SECONDS = 30
"""Below the 75 s after which the predictor drops an idle connection, so that we never send on one it has dropped."""
WRITTEN_AT_ONCE = 1024 * 1024
"""A larger body is handed to the connection in parts."""

Headers = Mapping[str, str] | Sequence[tuple[str, str]]


class Upstream:
    """HTTP to one predictor. Create it inside a running loop. ``buffer`` counts the bytes of a reply as it is read."""

    def __init__(self, settings: QueueProxySettings, url: str, buffer: Buffer) -> None:
        self.url = url.rstrip("/")
        self._most_reply_bytes = settings.max_reply_bytes
        self._buffer = buffer
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

    async def send(
        self, method: str, target: str, headers: Headers, body: bytes | None, *, model: str | None = None
    ) -> Reply:
        """Send a request to ``target``, an encoded path with its query, and return the reply once it is complete.

        Raises Unavailable where nobody listens, GatewayTimeout, BadGateway where the connection breaks or the reply is
        malformed or larger than ``max_reply_bytes``, Overloaded where there is no room for it.
        """
        if self._session.closed:
            raise Unavailable("The predictor has been taken away. Try again.")
        url = URL(self.url + target, encoded=True)
        content = body if body is None or len(body) <= WRITTEN_AT_ONCE else io.BytesIO(body)
        try:
            async with self._session.request(
                method, url, headers=headers, data=content, allow_redirects=False
            ) as response:
                reply = await self._read(response)
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError):
            raise Unavailable("The predictor cannot be reached. Try again later.") from None
        except TimeoutError:
            raise GatewayTimeout("The predictor did not answer in time.") from None
        except (aiohttp.ClientError, ConnectionError):
            raise BadGateway("The predictor broke off before its answer was complete.") from None
        if model and reply.version:
            self._versions[model] = reply.version
            for tell in self._on_answer:
                tell(model, reply.version)
        return reply

    async def _read(self, response: ClientResponse) -> Reply:
        fields = end_to_end(response.raw_headers)
        if not is_well_formed(fields):
            raise BadGateway("The predictor's answer has a header field that is not valid.")
        with closing(Share(self._buffer)) as share:
            content = await self._read_body(response, share)
        version = version_of(response.headers.get(MODEL_VERSION_HEADER))
        return Reply(check_status(response.status), fields, content, version)

    async def _read_body(self, response: ClientResponse, share: Share) -> bytes:
        parts: list[bytes] = []
        size = response.content_length or 0
        if size <= self._most_reply_bytes:
            size = 0
            async for part in response.content.iter_any():
                size += len(part)
                if size > self._most_reply_bytes:
                    break
                if size > SMALL:  # a prediction that was let in is not refused for want of room for its few scores
                    share.check(len(part))
                share.add(len(part))
                parts.append(part)
        if size > self._most_reply_bytes:
            raise BadGateway(f"The predictor's answer has more than the {self._most_reply_bytes:,} bytes it may have.")
        return parts[0] if len(parts) == 1 else b"".join(parts)

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
