"""What all sinks have in common: the narrow way in, and how they fail."""

from __future__ import annotations

from typing import Protocol

from model_server.queue_proxy.forwarding.cloud_event import CloudEvent


class SinkError(Exception):
    """The sink has not confirmed an event; the message says why, without its address."""


class Sink(Protocol):
    """Somewhere that events go."""

    async def send(self, event: CloudEvent) -> None:
        """Send one event, and return once the sink has it; raises SinkError."""

    async def close(self) -> None:
        """Close the connections."""
