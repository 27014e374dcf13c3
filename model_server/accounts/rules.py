"""What a name, an e-mail and a password may be."""

from __future__ import annotations

import unicodedata

from email_validator import EmailNotValidError, validate_email

from model_server.accounts.passwords import normal
from model_server.bundle import NOT_IN_TEXT
from model_server.errors import Unprocessable

MOST_NAME = 100


def one_line(text: str, field: str, most: int) -> str:
    """Return a text without the spaces around it; raises Unprocessable unless it is one line of 1 to ``most``."""
    stripped = text.strip()
    if not 1 <= len(stripped) <= most:
        raise Unprocessable(f"{field} has 1 to {most} characters, not {len(stripped):,}.")
    if any(unicodedata.category(character) in NOT_IN_TEXT for character in stripped):
        raise Unprocessable(f"{field} holds a control character.")
    return stripped


def email(text: str) -> tuple[str, str]:
    """Return an e-mail as it is shown, and without regard to case; raises Unprocessable."""
    try:
        # Company networks have domains of their own, such as corp.local, which no public server delivers to.
        found = validate_email(text.strip(), check_deliverability=False, globally_deliverable=False)
    except (EmailNotValidError, UnicodeError):
        raise Unprocessable("email is not an address such as ada@example.com.") from None
    if "." not in found.domain:
        raise Unprocessable("email needs a domain with a dot, as in ada@example.com.")
    return found.normalized, found.normalized.casefold()


def password(text: str, shortest: int, longest: int) -> str:
    """Return a password that is long and short enough; raises Unprocessable."""
    try:
        characters = len(normal(text))
        text.encode()
    except UnicodeEncodeError:
        raise Unprocessable("password holds half a character.") from None
    if not shortest <= characters <= longest:
        raise Unprocessable(f"password has {shortest} to {longest} characters, not {characters:,}.")
    return text
