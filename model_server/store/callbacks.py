"""Which receivers are still to be told of which finished predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.store.database import Database
from model_server.store.models import CALLBACKS, RESOURCE_COLUMNS, Prediction, Record


async def schedule(connection: AsyncConnection, predictions: Sequence[UUID]) -> None:
    """Make callbacks of finished predictions due at once."""
    if predictions:
        await connection.execute(insert(CALLBACKS), [{"prediction_id": prediction} for prediction in predictions])


async def take_due(database: Database, most: int, lease_seconds: float) -> list[Record]:
    """Return finished predictions whose callback is due, tried so often; each is ours until the lease ends."""
    due = (
        select(CALLBACKS.c.prediction_id)
        .where(CALLBACKS.c.due_at <= func.now(), CALLBACKS.c.gave_up_at.is_(None))
        .order_by(CALLBACKS.c.due_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    taken = (
        update(CALLBACKS)
        .where(CALLBACKS.c.prediction_id.in_(due.scalar_subquery()))
        .values(due_at=_after(lease_seconds), attempts=CALLBACKS.c.attempts + 1)
        .returning(CALLBACKS.c.prediction_id, CALLBACKS.c.attempts)
        .cte("taken")
    )
    statement = select(*RESOURCE_COLUMNS, taken.c.attempts.label("tried")).join(
        taken, taken.c.prediction_id == Prediction.id
    )
    async with database.transaction() as connection:
        return list((await connection.execute(statement)).all())


async def delivered(database: Database, prediction: UUID) -> None:
    """Forget a callback whose receiver has confirmed it."""
    async with database.transaction() as connection:
        await connection.execute(delete(CALLBACKS).where(CALLBACKS.c.prediction_id == prediction))


async def failed(database: Database, prediction: UUID, reason: str, retry_seconds: float | None) -> None:
    """Try again after the delay, or, None, never."""
    next_time: dict[str, Any] = (
        {"gave_up_at": func.now()} if retry_seconds is None else {"due_at": _after(retry_seconds)}
    )
    statement = update(CALLBACKS).where(CALLBACKS.c.prediction_id == prediction).values(last_error=reason, **next_time)
    async with database.transaction() as connection:
        await connection.execute(statement)


async def waiting(connection: AsyncConnection) -> int:
    """Return how many callbacks are not delivered and not given up."""
    statement = select(func.count()).select_from(CALLBACKS).where(CALLBACKS.c.gave_up_at.is_(None))
    return int((await connection.execute(statement)).scalar_one())


def _after(seconds: float) -> Any:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, literal(seconds))
