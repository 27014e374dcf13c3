"""Passwords: Argon2id, off the event loop, a few at a time."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from model_server.errors import Overloaded

MEMORY_KIB, ITERATIONS, LANES = 19 * 1024, 2, 1
"""OWASP's Password Storage Cheat Sheet: 19 MiB, 2 iterations, 1 degree of parallelism."""
MOST_WAITING = 512
"""About ten seconds of work for two cores; who comes later would not wait so long."""
NOBODYS_PASSWORD = "nobody's password"  # noqa: S105 - no account has it: its hash is compared with where there is none

Result = TypeVar("Result")


class Passwords:
    """Hashes and verifies passwords on threads of its own; every further one waits."""

    def __init__(self, threads: int) -> None:
        self._hasher = PasswordHash((Argon2Hasher(ITERATIONS, MEMORY_KIB, LANES),))
        self._threads = ThreadPoolExecutor(threads, "password")
        self._waiting = 0
        self._nobodys_hash = self._hasher.hash(NOBODYS_PASSWORD)

    async def hash(self, password: str) -> str:
        """Return a salted hash; raises Overloaded where too many wait."""
        return await self._run(lambda: self._hasher.hash(normal(password)))

    async def verify(self, password: str, known: str | None) -> tuple[bool, str | None]:
        """Whether a password has this hash, and a hash to keep instead where the parameters have changed.

        None, of an account that does not exist, takes as long as a wrong password. Raises Overloaded.
        """
        right, renewed = await self._run(
            lambda: self._hasher.verify_and_update(normal(password), known or self._nobodys_hash)
        )
        return (right and known is not None), renewed

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._waiting >= MOST_WAITING:
            raise Overloaded("Too many passwords are being checked. Try again.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


def normal(password: str) -> str:
    """Return the one form of a password that keyboards may send in several (NIST SP 800-63B, 3.1.1.2)."""
    return unicodedata.normalize("NFKC", password)
