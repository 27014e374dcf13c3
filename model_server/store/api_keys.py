"""API keys, known by their hashes."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from sqlalchemy import delete as delete_from
from sqlalchemy import func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.errors import Conflict, DatabaseError
from model_server.store.database import Database
from model_server.store.identifiers import new_id
from model_server.store.models import API_KEYS, USERS, Record

COLUMNS = tuple(column for column in API_KEYS.c if column.name not in {"sha256", "user_id"})
"""What may be shown."""
MOST = 50
"""Keys of one user."""
USED_SECONDS = 60
"""The time of last use is written at most so often."""


async def create(database: Database, user: UUID, name: str, hint: str, sha256: bytes) -> Record:
    """Add a key; raises Conflict where the user has as many as one may have, or is gone."""
    async with database.transaction() as connection:
        # The row's lock makes two requests count one after the other.
        owner = select(USERS.c.id).where(USERS.c.id == user).with_for_update()
        if (await connection.execute(owner)).one_or_none() is None:
            raise Conflict("The user has been deleted.")
        if await count(connection, user) >= MOST:
            raise Conflict(f"A user has at most {MOST} API keys; revoke one that is no longer used.")
        values = {"id": new_id(), "user_id": user, "name": name, "hint": hint, "sha256": sha256}
        return (await connection.execute(insert(API_KEYS).values(values).returning(*COLUMNS))).one()


async def owner(database: Database, sha256: bytes) -> Record | None:
    """Return the ``id``, ``name`` and ``is_admin`` of the user whose key this is, and note that it was used."""
    is_key = API_KEYS.c.sha256 == sha256
    last = API_KEYS.c.last_used_at
    is_due = or_(last.is_(None), last < func.now() - text(f"interval '{USED_SECONDS} seconds'")).label("is_due")
    of_user = select(USERS.c.id, USERS.c.name, USERS.c.is_admin, is_due).join(
        API_KEYS, API_KEYS.c.user_id == USERS.c.id
    )
    async with database.transaction() as connection:
        row = (await connection.execute(of_user.where(is_key))).one_or_none()
    if row is not None and row.is_due:
        with suppress(DatabaseError):  # that it was used is worth no refusal
            async with database.transaction() as connection:
                await connection.execute(update(API_KEYS).where(is_key).values(last_used_at=func.now()))
    return row


async def of_user(database: Database, user: UUID) -> list[Record]:
    """Return a user's keys, newest first."""
    statement = select(*COLUMNS).where(API_KEYS.c.user_id == user).order_by(API_KEYS.c.id.desc())
    async with database.transaction() as connection:
        return list((await connection.execute(statement)).all())


async def revoke(database: Database, user: UUID, key: UUID) -> bool:
    """Remove one of a user's keys; False: the user has none such."""
    statement = delete_from(API_KEYS).where(API_KEYS.c.id == key, API_KEYS.c.user_id == user)
    async with database.transaction() as connection:
        return (await connection.execute(statement)).rowcount == 1


async def revoke_all(connection: AsyncConnection, user: UUID) -> int:
    """Remove all of a user's keys, within a transaction, and return how many there were."""
    return (await connection.execute(delete_from(API_KEYS).where(API_KEYS.c.user_id == user))).rowcount


async def count(connection: AsyncConnection, user: UUID) -> int:
    """Return how many keys a user has, within a transaction."""
    statement = select(func.count()).select_from(API_KEYS).where(API_KEYS.c.user_id == user)
    return int((await connection.execute(statement)).scalar_one())
