"""How often logins and registrations may be tried."""

from __future__ import annotations

import time

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from model_server.config import FeedbackSettings
from model_server.errors import TooManyRequests
from model_server.http.client_address import counted_as

LONGEST_EMAIL = 320


class Attempts:
    """Counts in moving windows, in this process: each pod has counts of its own."""

    def __init__(self, settings: FeedbackSettings) -> None:
        self._window = MovingWindowRateLimiter(MemoryStorage())
        seconds = settings.login_window_seconds
        self._by_address = RateLimitItemPerSecond(settings.login_attempts_per_address, seconds, "address")
        self._by_account = RateLimitItemPerSecond(settings.login_attempts_per_account, seconds, "account")
        self._by_both = RateLimitItemPerSecond(settings.login_attempts, seconds, "both")
        self._registrations = RateLimitItemPerHour(settings.registrations_per_hour, 1, "registration")

    def login(self, address: str, account: str) -> None:
        """Count a login before its password is looked at; raises TooManyRequests."""
        address, account = counted_as(address), account[:LONGEST_EMAIL]
        self._count(self._by_address, address)
        self._count(self._by_both, address, account)
        self._count(self._by_account, account)

    def logged_in(self, address: str, account: str) -> None:
        """Forget the failures before a success."""
        self._window.clear(self._by_both, counted_as(address), account[:LONGEST_EMAIL])

    def registration(self, address: str) -> None:
        """Count a registration; raises TooManyRequests."""
        self._count(self._registrations, counted_as(address))

    def _count(self, item: RateLimitItem, *whose: str) -> None:
        if not self._window.hit(item, *whose):
            again = self._window.get_window_stats(item, *whose).reset_time - time.time()
            raise TooManyRequests("Too many attempts. Try again later.", again)
