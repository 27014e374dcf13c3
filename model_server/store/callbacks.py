"""Which receivers are still to be told of which finished predictions: callbacks, and the sink of all results."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import delete, func, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.store.database import Database
from model_server.store.models import CALLBACKS, RESOURCE_COLUMNS, Prediction, Record

Receiver = Literal["callback", "sink"]

RECEIVERS = "unnest(ARRAY['callback', 'sink']) AS receiver"
AUTHORITY = "//([^/?#]*)"
IS_AWAITED = "CASE receiver WHEN 'callback' THEN callback_url IS NOT NULL ELSE forwarded END"
"""Whether one of the receivers wants the result of a prediction."""

_SCHEDULE = text(f"""
    INSERT INTO callbacks (prediction_id, receiver)
    SELECT id, receiver FROM predictions, {RECEIVERS} WHERE id = ANY(CAST(:ids AS uuid[])) AND {IS_AWAITED}
""")  # noqa: S608 - our own conditions


async def schedule(connection: AsyncConnection, predictions: Sequence[UUID]) -> None:
    """Make finished predictions due, at once, to each receiver that they have."""
    if predictions:
        await connection.execute(_SCHEDULE, {"ids": list(predictions)})


async def take_due(
    database: Database, receiver: Receiver, most: int, lease_seconds: float, busy: Collection[str] = ()
) -> list[Record]:
    """Return finished predictions that are due to a receiver, tried so often; each is ours until the lease ends.

    ``host`` is where its callback goes, with the port, and empty for the sink; hosts that are ``busy`` get nothing.
    """
    host = literal("") if receiver == "sink" else func.substring(Prediction.callback_url, AUTHORITY)
    due = (
        select(CALLBACKS.c.prediction_id)
        .where(CALLBACKS.c.receiver == receiver, CALLBACKS.c.due_at <= func.now(), CALLBACKS.c.gave_up_at.is_(None))
        .order_by(CALLBACKS.c.due_at)
        .limit(most)
        .with_for_update(skip_locked=True, of=CALLBACKS)
    )
    if busy:
        due = due.join(Prediction, Prediction.id == CALLBACKS.c.prediction_id).where(host.not_in(busy))
    taken = (
        update(CALLBACKS)
        .where(CALLBACKS.c.receiver == receiver, CALLBACKS.c.prediction_id.in_(due.scalar_subquery()))
        .values(due_at=_after(lease_seconds), attempts=CALLBACKS.c.attempts + 1)
        .returning(CALLBACKS.c.prediction_id, CALLBACKS.c.attempts)
        .cte("taken")
    )
    statement = (
        select(*RESOURCE_COLUMNS, taken.c.attempts.label("tried"), host.label("host"))
        .join(taken, taken.c.prediction_id == Prediction.id)
        .order_by(Prediction.id)
    )
    async with database.transaction() as connection:
        return list((await connection.execute(statement)).all())


async def delivered(database: Database, receiver: Receiver, prediction: UUID) -> None:
    """Forget a delivery that its receiver has confirmed."""
    statement = delete(CALLBACKS).where(CALLBACKS.c.prediction_id == prediction, CALLBACKS.c.receiver == receiver)
    async with database.transaction() as connection:
        await connection.execute(statement)


async def failed(
    database: Database, receiver: Receiver, prediction: UUID, reason: str, retry_seconds: float | None
) -> None:
    """Try again after the delay, or, None, never."""
    next_time: dict[str, Any] = (
        {"gave_up_at": func.now()} if retry_seconds is None else {"due_at": _after(retry_seconds)}
    )
    statement = (
        update(CALLBACKS)
        .where(CALLBACKS.c.prediction_id == prediction, CALLBACKS.c.receiver == receiver)
        .values(last_error=reason, **next_time)
    )
    async with database.transaction() as connection:
        await connection.execute(statement)


def _after(seconds: float) -> Any:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, literal(seconds))
