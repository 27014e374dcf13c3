"""What single users may take, where it is not what everybody may."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete as delete_from
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from model_server.store.database import Database
from model_server.store.models import QUOTAS, USERS


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of one user; None: everybody's, 0: none at all."""

    requests_per_second: float | None = None
    burst: int | None = None
    images_per_day: int | None = None


async def find(database: Database, user: UUID) -> Quota | None:
    """Return a user's own limits; None where they have everybody's."""
    columns = QUOTAS.c
    statement = select(columns.requests_per_second, columns.burst, columns.images_per_day).where(
        columns.user_id == user
    )
    async with database.transaction() as connection:
        row = (await connection.execute(statement)).one_or_none()
    return Quota(*row) if row else None


async def put(database: Database, user: UUID, quota: Quota) -> bool:
    """Give a user limits of their own; False: there is no such user."""
    values = {
        "requests_per_second": quota.requests_per_second,
        "burst": quota.burst,
        "images_per_day": quota.images_per_day,
    }
    statement = insert(QUOTAS).values(user_id=user, **values)
    statement = statement.on_conflict_do_update(index_elements=["user_id"], set_={**values, "set_at": func.now()})
    # The row's lock keeps the user from being removed meanwhile.
    owner = select(USERS.c.id).where(USERS.c.id == user).with_for_update(read=True, key_share=True)
    async with database.transaction() as connection:
        if (await connection.execute(owner)).one_or_none() is None:
            return False
        await connection.execute(statement)
    return True


async def delete(database: Database, user: UUID) -> bool:
    """Give a user everybody's limits again; False: they had none of their own."""
    async with database.transaction() as connection:
        return (await connection.execute(delete_from(QUOTAS).where(QUOTAS.c.user_id == user))).rowcount == 1
