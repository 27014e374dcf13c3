"""From a request's credentials to its caller: the one door that every service asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from cachetools import TTLCache
from starlette.types import Scope

from model_server.accounts import api_keys, tokens
from model_server.accounts.caller import Caller
from model_server.config import AccessSettings
from model_server.errors import Forbidden, Unauthorized
from model_server.store import api_keys as stored_keys
from model_server.store import signing_keys, users
from model_server.store.database import Database

REMEMBERED = 10_000
"""Accounts and keys that are known for a moment."""
HOW = "Log in by POST /login and send the token as `Authorization: Bearer …`; an API key will do as well."


@dataclass(frozen=True, slots=True)
class _Account:
    caller: Caller
    password_set_at: datetime | None = None


class Authentication:
    """Knows callers by ``Authorization: Bearer`` and a token or an API key.

    Without the header nothing is asked of anybody; with it, the account is read from the database at most once in
    ``account_cache_seconds``.
    """

    def __init__(self, settings: AccessSettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._is_open = settings.mode == "open"
        self._anonymous = Caller(sees_unowned=self._is_open)
        self._known: TTLCache[Hashable, _Account] = TTLCache(REMEMBERED, settings.account_cache_seconds)
        given = settings.token_secret
        self._secret = given.get_secret_value().encode() if given else None
        self._asking = asyncio.Lock()

    async def identify(self, scope: Scope) -> Caller:
        """Return who sends a request; raises Unauthorized for credentials that do not hold, DatabaseUnavailable."""
        scheme, _, credentials = _authorization(scope).partition(" ")
        if scheme.lower() != "bearer":
            return self._anonymous
        credentials = credentials.lstrip(" ")
        if credentials.startswith(api_keys.PREFIX):
            return await self._of_key(credentials)
        return await self._of_token(credentials)

    async def admit(self, scope: Scope) -> Caller:
        """Return who sends a request that somebody unknown may send in mode ``open`` alone; raises Unauthorized."""
        caller = await self.identify(scope)
        return caller if self._is_open else _known(caller)

    async def user(self, scope: Scope) -> Caller:
        """Return the user who sends a request that nobody unknown may send; raises Unauthorized."""
        return _known(await self.identify(scope))

    async def admin(self, scope: Scope) -> Caller:
        """Return the administrator who sends a request; raises Unauthorized, or Forbidden to other users."""
        caller = await self.user(scope)
        if not caller.is_admin:
            raise Forbidden("This is for administrators.")
        return caller

    async def issue(self, user: UUID) -> str:
        """Return a token for a user who has logged in."""
        return tokens.issue(await self._signing_key(), user, self._settings.token_seconds)

    def forget(self) -> None:
        """Read every account anew: one is removed, or a key revoked."""
        self._known.clear()

    async def _of_token(self, text: str) -> Caller:
        token = tokens.verify(await self._signing_key(), text)
        account = await self._remember(token.user_id, lambda: self._account(token.user_id))
        # A token has whole seconds: one of the very second that the password was set in is taken for a later one.
        if account and account.password_set_at and account.password_set_at.replace(microsecond=0) <= token.issued_at:
            return account.caller
        raise Unauthorized("The token is not valid any more; log in again.")

    async def _of_key(self, key: str) -> Caller:
        digest = api_keys.digest(key)
        account = await self._remember(digest, lambda: self._owner(digest))
        if account:
            return account.caller
        raise Unauthorized("There is no such API key; it may have been revoked.")

    async def _remember(self, key: Hashable, read: Callable[[], Awaitable[_Account | None]]) -> _Account | None:
        if (known := self._known.get(key)) is not None:
            return known
        if (account := await read()) is not None:
            self._known[key] = account
        return account

    async def _account(self, user: UUID) -> _Account | None:
        row = await users.find(self._database, user)
        return _Account(self._caller(row), row.password_set_at) if row else None

    async def _owner(self, digest: bytes) -> _Account | None:
        row = await stored_keys.owner(self._database, digest)
        return _Account(self._caller(row)) if row else None

    def _caller(self, row: _UserRow) -> Caller:
        return Caller(row.id, row.name, row.is_admin, sees_unowned=self._is_open)

    async def _signing_key(self) -> bytes:
        if self._secret is None:
            async with self._asking:
                if self._secret is None:
                    self._secret = await signing_keys.get_or_create(self._database)
        return self._secret


class _UserRow(Protocol):
    id: UUID
    name: str
    is_admin: bool


def _authorization(scope: Scope) -> str:
    given: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) > 1:
        raise Unauthorized("The request has several Authorization fields; send one.")
    return given[0].decode("latin-1") if given else ""


def _known(caller: Caller) -> Caller:
    if caller.is_anonymous:
        raise Unauthorized(f"This needs a token. {HOW}")
    return caller
