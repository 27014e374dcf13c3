"""Logging in, by OAuth 2's password form."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.accounts import rules
from model_server.errors import (
    DatabaseError,
    InvalidInput,
    TooManyRequests,
    Unauthorized,
    Unprocessable,
    UnsupportedMediaType,
)
from model_server.feedback import metrics
from model_server.feedback.attempts import Attempts
from model_server.feedback.parts import Parts
from model_server.http import body
from model_server.http.client_address import from_neighbour
from model_server.http.replies import json_response
from model_server.store import users

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 16
GRANT = "password"


class LoginRoutes:
    """``/login``: how, and the token itself."""

    def __init__(self, parts: Parts, attempts: Attempts) -> None:
        self._parts = parts
        self._attempts = attempts

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/login", self.policy, methods=["GET"]), Route("/login", self.login, methods=["POST"])]

    async def policy(self, _request: Request) -> Response:
        """Return what a page has to know before anybody has logged in."""
        settings = self._parts.settings
        return json_response(
            {
                "mode": settings.mode,
                "registration": settings.registration,
                "password_min_length": settings.password_min_length,
                "password_max_length": settings.password_max_length,
                "token_seconds": settings.token_seconds,
            }
        )

    async def login(self, request: Request) -> Response:
        """Return a token for an e-mail and its password; which of the two is wrong is not said, nor to be measured."""
        email, password = await self._credentials(request)
        address, key = from_neighbour(request.scope), _key(email)
        # What finds the account, or each way to write an e-mail would be given attempts of its own.
        counted_as = key or email.casefold()
        try:
            self._attempts.login(address, counted_as)
        except TooManyRequests:
            metrics.LOGINS.labels("limited").inc()
            raise
        row = await users.with_password(self._parts.database, key) if key else None
        right, renewed = await self._parts.passwords.verify(password, row.password_hash if row else None)
        if row is None or not right:
            metrics.LOGINS.labels("refused").inc()
            raise Unauthorized("E-mail or password is wrong.")
        self._attempts.logged_in(address, counted_as)
        if renewed:
            with suppress(DatabaseError):  # the next login does it
                await users.rehash(self._parts.database, row.id, renewed)
        metrics.LOGINS.labels("succeeded").inc()
        token = await self._parts.authentication.issue(row.id)
        seconds = self._parts.settings.token_seconds
        return json_response({"access_token": token, "token_type": "bearer", "expires_in": seconds})

    async def _credentials(self, request: Request) -> tuple[str, str]:
        """Return username and password of the form (RFC 6749, section 4.3.2)."""
        if body.media_type(request.scope) != FORM:
            raise UnsupportedMediaType(f"Send username, the e-mail, and password as {FORM}.")
        data = await body.read(request.scope, request.receive, self._parts.settings, body.SMALL)
        try:
            form = dict(parse_qsl(data.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"))
        except ValueError:
            raise InvalidInput("The form cannot be read.") from None
        if form.get("grant_type", GRANT) != GRANT:
            raise Unprocessable(f"grant_type is {GRANT!r}, or absent.")
        if "username" not in form or "password" not in form:
            raise Unprocessable("The form needs username, which is the e-mail, and password.")
        return form["username"], form["password"]


def _key(email: str) -> str | None:
    """Return what an account is found by, None for what is no e-mail and has none."""
    try:
        return rules.email(email)[1]
    except Unprocessable:
        return None
