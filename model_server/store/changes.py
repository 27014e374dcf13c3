"""Changes of status, announced by NOTIFY in the transaction that makes them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

CHANNEL = "model_server_predictions"
CHANGES_IN_ONE = 150
"""A notification holds at most 8,000 bytes; a change takes less than 50."""

_NOTIFY = text("SELECT pg_notify(:channel, :payload)")


async def announce(connection: AsyncConnection, changes: Sequence[tuple[UUID, str]]) -> None:
    """Tell every process, at commit, which predictions have which status now."""
    for start in range(0, len(changes), CHANGES_IN_ONE):
        payload = ",".join(
            f"{identifier.hex}:{status}" for identifier, status in changes[start : start + CHANGES_IN_ONE]
        )
        await connection.execute(_NOTIFY, {"channel": CHANNEL, "payload": payload})


def parse(payload: str) -> list[tuple[UUID, str]]:
    """Return what ``announce`` was given."""
    pairs = (change.split(":") for change in payload.split(","))
    return [(UUID(identifier), status) for identifier, status in pairs]
