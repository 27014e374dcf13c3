"""TensorFlow Serving's column format: ``{"inputs": …}`` in, ``{"outputs": …}`` out; its row format is V1 itself.

https://www.tensorflow.org/tfx/serving/api_rest#predict_api
"""

from __future__ import annotations

import re
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_server.config import QueueProxySettings
from model_server.documents import v1_reply
from model_server.documents.document import read
from model_server.documents.v1_request import ColumnRequest
from model_server.errors import InvalidInput
from model_server.http import body, json_body
from model_server.http.replies import json_response

COLUMNS = ("label", "index", "score")
"""The named outputs, each a list in the order of the inputs."""
COLUMN_FORMAT = re.compile(rb'\s*\{\s*(?:"signature_name"\s*:\s*"[^"]*"\s*,\s*)?"inputs"\s*:')


class ColumnFormat:
    """Turns requests in the column format to rows, and their answers back; all others pass as they are."""

    def __init__(self, settings: QueueProxySettings, app: ASGIApp) -> None:
        self._settings = settings
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if body.media_type(scope) not in body.JSON_TYPES:
            await self._app(scope, receive, send)
            return
        data = await body.read(scope, receive, self._settings)
        body.release(scope)  # whoever reads it again counts it
        if not COLUMN_FORMAT.match(data):
            await self._app(scope, _whole(data), send)
            return
        rows = orjson.dumps(to_rows(json_body.parse(data, self._settings.max_json_values)))
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(rows)).encode()))
        await self._app({**scope, "headers": headers}, _whole(rows), Outputs(scope, send).send)


class Outputs:
    """Collects a reply and passes it on, predictions as columns."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._start: Message = {}
        self._content = bytearray()

    async def send(self, message: Message) -> None:
        """Take a part of the reply; send all of it after the last."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._content += message.get("body", b"")
        if message.get("more_body"):
            return
        columns = to_columns(bytes(self._content)) if self._start["status"] == 200 else None
        if columns is None:
            await self._send(self._start)
            await self._send({"type": "http.response.body", "body": bytes(self._content)})
            return
        kept = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in self._start["headers"]
            if name.lower() not in {b"content-length", b"content-type"}
        }
        await json_response(columns, headers=kept)(self._scope, _whole(b""), self._send)


def to_rows(document: dict[str, Any]) -> dict[str, Any]:
    """Return the same request in the row format; raises InvalidInput where it has not one input of a batch."""
    request = read(ColumnRequest, document)
    inputs = request.inputs
    if isinstance(inputs, dict) and "b64" not in inputs:
        if len(inputs) != 1:
            raise InvalidInput('"inputs" has one input: the batch of images.')
        (inputs,) = inputs.values()
    others = request.model_dump(include={"parameters", "signature_name"}, exclude_unset=True, exclude_none=True)
    return {**others, "instances": inputs if isinstance(inputs, list) else [inputs]}


def to_columns(content: bytes) -> dict[str, Any] | None:
    """Return a V1 answer as columns; None for what is none, such as a queued prediction, or for another shape."""
    document = json_body.parse_reply(content)
    if document is None or document.keys() != {"predictions"}:
        return None
    rows = v1_reply.predictions(document["predictions"])
    return None if rows is None else {"outputs": {name: [getattr(row, name) for row in rows] for name in COLUMNS}}


def _whole(content: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": content}

    return receive
