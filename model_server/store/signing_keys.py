"""The key that every process signs and verifies tokens with."""

from __future__ import annotations

import secrets

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from model_server.store.database import Database
from model_server.store.models import SIGNING_KEYS

KEY_BYTES = 32
"""As many as SHA-256 gives: RFC 7518, section 3.2."""


async def get_or_create(database: Database) -> bytes:
    """Return the key, made by whoever comes first: the row's primary key lets in one of many at once."""
    stored = select(SIGNING_KEYS.c.secret)
    new = insert(SIGNING_KEYS).values(id=1, secret=secrets.token_bytes(KEY_BYTES)).on_conflict_do_nothing()
    async with database.transaction() as connection:
        secret = (await connection.execute(stored)).scalar_one_or_none()
        if secret is None:
            await connection.execute(new)
            secret = (await connection.execute(stored)).scalar_one()
        return bytes(secret)
