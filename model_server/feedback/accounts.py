"""Routes of accounts and their API keys."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from uuid import UUID

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.accounts import api_keys, rules
from model_server.accounts.caller import Caller
from model_server.accounts.register import Register
from model_server.documents.document import Document, Kind, read
from model_server.errors import Conflict, Forbidden, NotFound, TooManyRequests, Unprocessable
from model_server.feedback import metrics
from model_server.feedback.attempts import Attempts
from model_server.feedback.parts import Parts
from model_server.http import body, json_body, paging
from model_server.http.client_address import from_neighbour
from model_server.http.replies import json_response, timestamp
from model_server.store import api_keys as stored_keys
from model_server.store import users
from model_server.store.models import Record

MOST_JSON_VALUES = 100
ONESELF = "me"


class NewAccount(Document):
    """What an account is made of."""

    name: str = Field(description="a text")
    email: str = Field(description="a text")
    password: str = Field(description="a text")


class NewKey(Document):
    """What an API key is called."""

    name: str = Field(description="a text")


class AccountRoutes:
    """One method a route; an id may be ``me``."""

    def __init__(self, parts: Parts, attempts: Attempts) -> None:
        self._parts = parts
        self._attempts = attempts
        self._register = Register(parts.settings, parts.database, parts.passwords)

    def routes(self) -> list[Route]:
        """Return the routes."""
        one, keys = "/user/{id}", "/user/{id}/keys"
        return [
            *(Route(path, self.create, methods=["POST"]) for path in ("/user", "/user/")),
            *(Route(path, self.list, methods=["GET"]) for path in ("/user", "/user/")),
            Route(one, self.read, methods=["GET"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(keys, self.create_key, methods=["POST"]),
            Route(keys, self.list_keys, methods=["GET"]),
            Route(f"{keys}/{{key}}", self.revoke_key, methods=["DELETE"]),
        ]

    async def create(self, request: Request) -> Response:
        """Make an account; where registration is closed, an administrator does."""
        if self._parts.settings.registration == "closed":
            await self._parts.authentication.admin(request.scope)
        try:
            self._attempts.registration(from_neighbour(request.scope))
            document = await self._document(request, NewAccount)
            row = await self._register.add(document.name, document.email, document.password)
        except (TooManyRequests, Conflict) as error:
            metrics.REGISTRATIONS.labels("limited" if isinstance(error, TooManyRequests) else "taken").inc()
            raise
        metrics.REGISTRATIONS.labels("made").inc()
        return json_response(_user(row), HTTPStatus.CREATED, {"Location": f"/user/{row.id}"})

    async def list(self, request: Request) -> Response:
        """Return a page of all users to an administrator, and to anybody else themselves."""
        caller = await self._parts.authentication.user(request.scope)
        limit, before = paging.limit(request), paging.cursor(request)
        if caller.is_admin:
            rows = await users.page(self._parts.database, limit + 1, before)
        else:
            own = await users.find(self._parts.database, _id_of(caller))
            rows = [own] if own and before is None else []
        return json_response(
            {"users": [_user(row) for row in rows[:limit]], "next_cursor": paging.next_cursor(rows, limit)}
        )

    async def read(self, request: Request) -> Response:
        """Return one user: oneself, or to an administrator anybody."""
        row = await users.find(self._parts.database, await self._whose(request))
        if row is None:
            raise NotFound("There is no such user.")
        return json_response(_user(row))

    async def delete(self, request: Request) -> Response:
        """Remove a user with name, e-mail and API keys; what they have said of predictions stays, without them."""
        if not await users.delete(self._parts.database, await self._whose(request)):
            raise NotFound("There is no such user.")
        self._parts.authentication.forget()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def create_key(self, request: Request) -> Response:
        """Make an API key, which is shown this once."""
        caller = await self._parts.authentication.user(request.scope)
        if await self._whose(request) != caller.user_id:
            raise Forbidden("Only the user may make keys.")
        document = await self._document(request, NewKey)
        name = rules.one_line(document.name, "name", rules.MOST_NAME)
        key = api_keys.new_key()
        row = await stored_keys.create(
            self._parts.database, _id_of(caller), name, api_keys.hint(key), api_keys.digest(key)
        )
        return json_response({**_key(row), "key": key}, HTTPStatus.CREATED)

    async def list_keys(self, request: Request) -> Response:
        """Return a user's API keys, newest first, without the keys themselves."""
        rows = await stored_keys.of_user(self._parts.database, await self._whose(request))
        return json_response({"keys": [_key(row) for row in rows]})

    async def revoke_key(self, request: Request) -> Response:
        """Make an API key worthless."""
        whose, key = await self._whose(request), _uuid(request.path_params["key"])
        if key is None or not await stored_keys.revoke(self._parts.database, whose, key):
            raise NotFound("The user has no such API key.")
        self._parts.authentication.forget()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _whose(self, request: Request) -> UUID:
        """Return the user that the path names; raises Forbidden for others than oneself, but to an administrator."""
        caller = await self._parts.authentication.user(request.scope)
        given = request.path_params["id"]
        if given == ONESELF:
            return _id_of(caller)
        known = _uuid(given)
        if not caller.is_admin and known != caller.user_id:
            raise Forbidden("Only the user and administrators may do this.")
        if known is None:
            raise NotFound("There is no such user.")
        return known

    async def _document(self, request: Request, kind: type[Kind]) -> Kind:
        data = await body.read(request.scope, request.receive, self._parts.settings, body.SMALL)
        return read(kind, json_body.parse(data, MOST_JSON_VALUES, Unprocessable), Unprocessable)


def _id_of(caller: Caller) -> UUID:
    assert caller.user_id is not None  # noqa: S101 - `user` lets in nobody unknown
    return caller.user_id


def _uuid(given: str) -> UUID | None:
    try:
        return UUID(given)
    except ValueError:
        return None


def _user(row: Record) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "name": row.name,
        "email": row.email,
        "is_admin": row.is_admin,
        "created_at": timestamp(row.created_at),
    }


def _key(row: Record) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "name": row.name,
        "hint": row.hint,
        "created_at": timestamp(row.created_at),
        "last_used_at": timestamp(row.last_used_at),
    }
