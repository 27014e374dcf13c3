"""One HTTP/1.1 connection: uvicorn's protocol over httptools, with a bound on all that a stranger may do with it.

An offered upgrade is ignored, as RFC 9110, section 7.8, lets a server: the body is read as it is announced. A reply
that is given before the body has been read closes the connection, and trailers are not looked at.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from http import HTTPStatus
from typing import Any, cast

import httptools
import orjson
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from model_server.http.connections import Connections
from model_server.http.exchange import Exchange

MOST_HEAD_BYTES, MOST_FIELDS = 64 * 1024, 100
"""Of a request's line and header fields, its trailers counted in."""
MOST_WAITING = 8
"""Requests that may wait behind one that is being answered, on the same connection."""
MOST_WAITING_BYTES = 64 * 1024
"""Of the body of such a request."""
VERSIONS = frozenset({"1.0", "1.1"})
UPGRADE_FIELDS = frozenset({b"upgrade", b"http2-settings"})
TOO_LARGE = f"The header fields have more than {MOST_HEAD_BYTES:,} bytes, or are more than {MOST_FIELDS}."
TOO_SLOW = "The request's head did not arrive in time."
MALFORMED = "The request is not HTTP/1.1."


class _HeadTooLarge(Exception):
    """Raised within the parser."""


class Connection(HttpToolsProtocol):
    """What uvicorn makes for each connection; ``connections`` ends those that idle or stall."""

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        client: tuple[str, int],
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._client = client
        self.parser = httptools.HttpRequestParser(self)
        self._known = connections
        self._answering: Exchange | None = None
        self._in_head = False
        self._head_bytes = self._fields = 0
        self._silent_bytes = 0
        self._has_upgrade = False
        self._is_over = False
        self._sent_before = 0

    @property
    def sent(self) -> int:
        """Bytes of content that were given to the transport so far, all replies together."""
        return self._sent_before + (self._answering.sent if self._answering else 0)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self.client = self._client  # of a connection that was reset the transport knows none
        self._known.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is being done for a caller who has gone."""
        super().connection_lost(exc)
        self._known.closed(self)
        self.pipeline.clear()
        if (answering := self._unfinished()) is not None:
            answering.give_up()
            answering.task.cancel()

    def _unfinished(self) -> Exchange | None:
        """Return the request that is being answered."""
        answering = self._answering
        return None if answering is None or answering.response_complete else answering

    def data_received(self, data: bytes) -> None:
        """Take what has arrived; of a connection that is over, without looking at it."""
        if self._is_over:
            self._known.discarded(self, len(data))
            return
        self._silent_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _HeadTooLarge):
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, TOO_LARGE)
            else:
                self._refuse(HTTPStatus.BAD_REQUEST, MALFORMED)
            return
        # Neither the end of a head nor a byte of a body came of it: a head, trailers, or what chunks may carry besides.
        if self._silent_bytes > MOST_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, TOO_LARGE)
        elif self._in_head:
            self._known.in_head(self)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The parser stops behind the head, as if another protocol followed.
            self.parser = httptools.HttpRequestParser(self)
            head, self._has_upgrade = self._head_without_upgrade(), False
            self._feed(head + data[upgrade.args[0] :])

    def _head_without_upgrade(self) -> bytes:
        fields = b"".join(b"%s: %s\r\n" % field for field in self.headers if field[0] not in UPGRADE_FIELDS)
        line = b"%s %s HTTP/%s" % (self.scope["method"].encode(), self.url, self.scope["http_version"].encode())
        return b"%s\r\n%s\r\n" % (line, fields)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._fields = 0

    def on_url(self, url: bytes) -> None:
        """Take the target, or a part of it."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field; a trailer is counted and left."""
        self._fields += 1
        self._count(len(name) + len(value))
        if not self._in_head:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue" and self.parser.get_http_version() == "1.1":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MOST_HEAD_BYTES or self._fields > MOST_FIELDS:
            raise _HeadTooLarge

    def on_headers_complete(self) -> None:
        """Begin the reply, or let the request wait for the end of the one before."""
        self.scope["method"] = method = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version = self.parser.get_http_version()
        known = version in VERSIONS and method != "CONNECT" and self._is_framing_known()
        if not known or len(self.pipeline) >= MOST_WAITING:
            raise httptools.HttpParserError
        self._in_head, self._silent_bytes = False, 0
        self._has_upgrade = self.parser.should_upgrade()
        if not self._has_upgrade:
            self._set_target()
            self._known.busy(self)
            self._take(self._exchange(version))

    def _is_framing_known(self) -> bool:
        """Whether a body that is coded for its transfer is in chunks alone: we decode no other coding."""
        return all(value.lower() == b"chunked" for name, value in self.headers if name == b"transfer-encoding")

    def _set_target(self) -> None:
        target = httptools.parse_url(self.url)
        path = target.path.decode("ascii")
        self.scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        self.scope["raw_path"] = target.path
        self.scope["query_string"] = target.query or b""

    def _exchange(self, version: str) -> Exchange:
        return Exchange(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )

    def _take(self, exchange: Exchange) -> None:
        self.cycle = exchange
        if self._unfinished() is None:
            self._begin(exchange)
        else:  # reading goes on: the caller may leave meanwhile
            self.pipeline.appendleft((exchange, self.app))

    def _begin(self, exchange: Exchange) -> None:
        self._sent_before, self._answering = self.sent, exchange
        exchange.task = self.loop.create_task(exchange.answer(self.app))
        self.tasks.add(exchange.task)
        exchange.task.add_done_callback(self.tasks.discard)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._silent_bytes = 0
        if self.pipeline and len(self.cycle.body) + len(body) > MOST_WAITING_BYTES:
            raise httptools.HttpParserError
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, once its body has been read as it is announced."""
        if not self._has_upgrade:
            self._silent_bytes = 0
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin the next reply, wait for another request, or end the connection."""
        self.server_state.total_requests += 1
        answered = self._answering
        if self.transport.is_closing() or answered is None:
            return
        self.flow.resume_reading()
        if answered.is_last:
            self._end(all_read=not answered.more_body)
        elif self.pipeline:
            exchange, _ = self.pipeline.pop()
            self._begin(cast("Exchange", exchange))
        elif self._is_over:
            self._end(all_read=False)
        else:
            self._known.idle(self)

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        """Say why no request can be read from here on; those before it that are complete are answered first."""
        self._is_over = True
        self._known.busy(self)
        if self.pipeline and self.cycle.more_body:
            self.pipeline.popleft()
        answering = self._unfinished()
        if answering is None:
            self._say(status, sentence)
        elif answering.more_body and not answering.response_started:
            answering.give_up()
            self._say(status, sentence)

    def time_out(self) -> None:
        """Refuse a head that came too slowly."""
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, TOO_SLOW)

    def _say(self, status: HTTPStatus, sentence: str) -> None:
        content = orjson.dumps({"error": sentence})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
        self.transport.write(STATUS_LINE[status] + head + content)
        self._end(all_read=False)

    def _end(self, *, all_read: bool) -> None:
        """Close the connection; where the caller is still sending, not before it can have read the reply.

        To close a socket with unread bytes resets the connection, and the reply may be lost with it (RFC 9112, 9.6).
        """
        self._is_over = True
        if all_read or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.flow.resume_reading()
            self.transport.write_eof()
            self._known.lingering(self)
