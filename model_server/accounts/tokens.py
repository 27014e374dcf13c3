"""Access tokens: JSON Web Tokens (RFC 7519), HMAC with SHA-256 and nothing else."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import jwt

from model_server.errors import Unauthorized

ALGORITHM = "HS256"
AUDIENCE = "model-server"
CLAIMS = ("aud", "exp", "iat", "sub")
SPELLING = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
"""RFC 7515, 3.1, with the 32 bytes of HMAC-SHA-256, whose last character has two bits to spare. Readers of base64 pass
over what does not belong there, and would take a token in spellings without end."""

NOT_VALID = "The token is not valid; log in again."


@dataclass(frozen=True, slots=True)
class Token:
    """What a token that holds says: whose it is, since when."""

    user_id: UUID
    issued_at: datetime


def issue(secret: bytes, user: UUID, seconds: int) -> str:
    """Return a token for a user that is good for so many seconds."""
    now = int(time.time())
    return jwt.encode({"sub": str(user), "aud": AUDIENCE, "iat": now, "exp": now + seconds}, secret, ALGORITHM)


def verify(secret: bytes, text: str) -> Token:
    """Return what a token says; raises Unauthorized where it is expired, altered, or meant for somebody else."""
    if not SPELLING.fullmatch(text):
        raise Unauthorized(NOT_VALID)
    try:
        claims = jwt.decode(text, secret, [ALGORITHM], audience=AUDIENCE, options={"require": list(CLAIMS)})
        return Token(UUID(claims["sub"]), datetime.fromtimestamp(claims["iat"], UTC))
    except jwt.ExpiredSignatureError:
        raise Unauthorized("The token has expired; log in again.") from None
    except (jwt.InvalidTokenError, ValueError, OverflowError, OSError):
        raise Unauthorized(NOT_VALID) from None
