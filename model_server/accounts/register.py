"""Making accounts: the same rules for the route and for the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from model_server.accounts import rules
from model_server.accounts.passwords import Passwords
from model_server.config import FeedbackSettings
from model_server.errors import Conflict, NotFound
from model_server.store import users
from model_server.store.database import Database, url_of
from model_server.store.models import Record
from model_server.store.users import NewUser

TAKEN = "There is an account with this e-mail already."


class Register:
    """Adds users, and gives them passwords."""

    def __init__(self, settings: FeedbackSettings, database: Database, passwords: Passwords) -> None:
        self._settings = settings
        self._database = database
        self._passwords = passwords

    async def add(self, name: str, email: str, password: str, *, is_admin: bool = False) -> Record:
        """Add a user; raises Unprocessable for what breaks a rule, Conflict for an e-mail that is taken."""
        name = rules.one_line(name, "name", rules.MOST_NAME)
        shown, key = rules.email(email)
        password = self._checked(password)
        # Asked before the costly hash; who comes first among many at once is decided by the insert.
        if await users.is_taken(self._database, key):
            raise Conflict(TAKEN)
        hashed = await self._passwords.hash(password)
        row = await users.create(self._database, NewUser(name, shown, key, hashed, is_admin))
        if row is None:
            raise Conflict(TAKEN)
        return row

    async def set_password(self, email: str, password: str, *, revoke_keys: bool) -> int:
        """Give a user another password; return how many API keys there were. Raises Unprocessable, or NotFound."""
        _, key = rules.email(email)
        hashed = await self._passwords.hash(self._checked(password))
        keys = await users.set_password(self._database, key, hashed, revoke_keys=revoke_keys)
        if keys is None:
            raise NotFound("There is no account with this e-mail.")
        return keys

    def _checked(self, password: str) -> str:
        return rules.password(password, self._settings.password_min_length, self._settings.password_max_length)


async def create_user(settings: FeedbackSettings, name: str, email: str, password: str, is_admin: bool) -> Record:
    """Add a user in the database that the settings name."""
    async with _register(settings) as register:
        return await register.add(name, email, password, is_admin=is_admin)


async def set_password(settings: FeedbackSettings, email: str, password: str, *, revoke_keys: bool) -> int:
    """Give a user another password in the database that the settings name; return how many API keys there were."""
    async with _register(settings) as register:
        return await register.set_password(email, password, revoke_keys=revoke_keys)


@asynccontextmanager
async def _register(settings: FeedbackSettings) -> AsyncIterator[Register]:
    database, passwords = Database(url_of(settings), 2), Passwords(1)
    try:
        yield Register(settings, database, passwords)
    finally:
        passwords.close()
        await database.close()
