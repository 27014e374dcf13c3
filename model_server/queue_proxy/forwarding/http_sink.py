"""CloudEvents to a webhook or a Knative broker, in binary mode.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import quote

import aiohttp
from aiohttp import ClientSession, ClientTimeout
from yarl import URL

from model_server.queue_proxy.forwarding.cloud_event import CONTENT_TYPE, CloudEvent
from model_server.queue_proxy.forwarding.sink import SinkError

HEADER_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""Section 3.1.3.2: all else is percent-encoded in a header."""


class HttpSink:
    """POSTs each event; any 2xx confirms it. A user and password in the URL are sent as its basic credentials."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._url = URL(url)
        self._session = ClientSession(timeout=ClientTimeout(total=timeout_seconds), cookie_jar=aiohttp.DummyCookieJar())

    async def send(self, event: CloudEvent) -> None:
        """Send one event; raises SinkError."""
        headers = {f"ce-{name}": quote(value, safe=HEADER_SAFE) for name, value in event.attributes.items()}
        headers |= {"Content-Type": CONTENT_TYPE, "User-Agent": "model-server"}
        try:
            async with self._session.post(self._url, data=event.data, headers=headers, allow_redirects=False) as reply:
                if not HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
                    raise SinkError(f"the sink answered {reply.status}")
        except TimeoutError:
            raise SinkError("the sink did not answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SinkError(f"the sink cannot be reached: {type(error).__name__}") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
