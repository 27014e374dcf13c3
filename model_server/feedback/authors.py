"""Whose a judgement is: a user's, a nameless browser's, or nobody's in particular."""

from __future__ import annotations

import hashlib
import re
import secrets
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from model_server.accounts.caller import Caller
from model_server.feedback.judgement import Author

COOKIE = "model-server-visitor"
COOKIE_SECONDS = 365 * 86400
COOKIE_FORM = re.compile(r"[A-Za-z0-9_-]{22,64}")
NOBODY = UUID(int=0)
"""All who send neither credentials nor the cookie, such as curl: on one prediction they have one voice together."""


def author_of(request: Request, caller: Caller) -> Author:
    """Return the author: the user, the browser that sends our cookie, or nobody."""
    if caller.user_id is not None:
        return Author(caller, caller.user_id)
    cookie = request.cookies.get(COOKIE, "")
    return Author(caller, visitor_key(cookie) if COOKIE_FORM.fullmatch(cookie) else NOBODY)


def visitor_key(cookie: str) -> UUID:
    """Return what is kept of a cookie: hashed, so that no cookie can be made to stand for a user's id."""
    return named_key("visitor", cookie)


def named_key(kind: str, name: str) -> UUID:
    """Return the key of an author who has no account."""
    return UUID(bytes=hashlib.sha256(f"{kind}\0{name}".encode()).digest()[:16])


def introduce(response: Response, author: Author) -> None:
    """Give a nameless browser a cookie to be known by; it is not sent anywhere but to the feedback routes."""
    if author.key == NOBODY:
        cookie = secrets.token_urlsafe(16)
        response.set_cookie(COOKIE, cookie, COOKIE_SECONDS, path="/feedback", httponly=True, samesite="strict")
