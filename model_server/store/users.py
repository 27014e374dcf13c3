"""Accounts: who there is."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete as delete_from
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from model_server.store import api_keys
from model_server.store.database import Database
from model_server.store.identifiers import new_id
from model_server.store.models import USERS, Record

COLUMNS = (USERS.c.id, USERS.c.name, USERS.c.email, USERS.c.is_admin, USERS.c.created_at)
"""What may be shown: all but the password's hash."""


@dataclass(frozen=True, slots=True)
class NewUser:
    """An account to be made; ``email_key`` is the e-mail without regard to case."""

    name: str
    email: str
    email_key: str
    password_hash: str
    is_admin: bool = False


async def create(database: Database, user: NewUser) -> Record | None:
    """Add a user and return the row, None where the e-mail is taken."""
    values = {
        "id": new_id(),
        "name": user.name,
        "email": user.email,
        "email_key": user.email_key,
        "password_hash": user.password_hash,
        "is_admin": user.is_admin,
    }
    statement = insert(USERS).values(values).on_conflict_do_nothing(index_elements=["email_key"]).returning(*COLUMNS)
    async with database.transaction() as connection:
        return (await connection.execute(statement)).one_or_none()


async def is_taken(database: Database, email_key: str) -> bool:
    """Whether somebody has an account with this e-mail."""
    statement = select(USERS.c.id).where(USERS.c.email_key == email_key)
    async with database.transaction() as connection:
        return (await connection.execute(statement)).one_or_none() is not None


async def with_password(database: Database, email_key: str) -> Record | None:
    """Return a user's row with ``password_hash``."""
    statement = select(*COLUMNS, USERS.c.password_hash).where(USERS.c.email_key == email_key)
    async with database.transaction() as connection:
        return (await connection.execute(statement)).one_or_none()


async def find(database: Database, identifier: UUID) -> Record | None:
    """Return a user's row with ``password_set_at``."""
    statement = select(*COLUMNS, USERS.c.password_set_at).where(USERS.c.id == identifier)
    async with database.transaction() as connection:
        return (await connection.execute(statement)).one_or_none()


async def page(database: Database, limit: int, before: UUID | None) -> list[Record]:
    """Return up to ``limit`` users, newest first, older than ``before``."""
    statement = select(*COLUMNS).order_by(USERS.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(USERS.c.id < before)
    async with database.transaction() as connection:
        return list((await connection.execute(statement)).all())


async def set_password(database: Database, email_key: str, password_hash: str, *, revoke_keys: bool) -> int | None:
    """Give a user another password, which ends the tokens of before, and with ``revoke_keys`` the API keys.

    Return how many keys there were; None: there is no user of this e-mail.
    """
    statement = (
        update(USERS)
        .where(USERS.c.email_key == email_key)
        .values(password_hash=password_hash, password_set_at=func.now())
        .returning(USERS.c.id)
    )
    async with database.transaction() as connection:
        user = (await connection.execute(statement)).scalar_one_or_none()
        if user is None:
            return None
        return await (api_keys.revoke_all if revoke_keys else api_keys.count)(connection, user)


async def rehash(database: Database, identifier: UUID, password_hash: str) -> None:
    """Keep the same password under another hash; tokens stay good."""
    statement = update(USERS).where(USERS.c.id == identifier).values(password_hash=password_hash)
    async with database.transaction() as connection:
        await connection.execute(statement)


async def delete(database: Database, identifier: UUID) -> bool:
    """Remove a user with name, e-mail and API keys; False: there is none."""
    async with database.transaction() as connection:
        return (await connection.execute(delete_from(USERS).where(USERS.c.id == identifier))).rowcount == 1
