"""A finished prediction as a CloudEvent 1.0 (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from urllib.parse import quote

import orjson

from model_server.http.replies import timestamp
from model_server.queue_proxy.resources import resource
from model_server.store.models import Record

CONTENT_TYPE = "application/json"
TYPE = "model-server.prediction"


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """Attributes by name, without a prefix, and the data: the prediction's resource, as JSON."""

    attributes: dict[str, str]
    data: bytes

    @property
    def id(self) -> str:
        """Return what receivers know a repetition by: the prediction's id, which ends once."""
        return self.attributes["id"]

    @property
    def type(self) -> str:
        """Return the type, which tells the status."""
        return self.attributes["type"]


def event_of(row: Record) -> CloudEvent:
    """Return the event that a prediction has ended, with the caller's request id and trace as extensions."""
    attributes = {
        "specversion": "1.0",
        "id": str(row.id),
        "source": f"/v1/models/{quote(row.model, safe='')}",
        "type": f"{TYPE}.{row.status}",
        "subject": str(row.id),
        "time": timestamp(row.finished_at.astimezone(UTC)),
    }
    if row.request_id:
        attributes["requestid"] = row.request_id
    if row.traceparent:
        attributes["traceparent"] = row.traceparent
    return CloudEvent(attributes, orjson.dumps(resource(row)))
