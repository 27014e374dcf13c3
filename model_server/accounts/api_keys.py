"""API keys: long random texts, of which only a hash is kept."""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "msk_"
"""Tells a key from a token, and a leaked one from other text."""
RANDOM_BYTES = 32
HINT_CHARACTERS = len(PREFIX) + 6


def new_key() -> str:
    """Return a new key."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def hint(key: str) -> str:
    """Return the beginning that a key is shown by."""
    return key[:HINT_CHARACTERS]


def digest(key: str) -> bytes:
    """Return the SHA-256 that a key is known by; slow hashes are for secrets that can be guessed."""
    return hashlib.sha256(key.encode()).digest()
