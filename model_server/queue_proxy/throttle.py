"""How much one caller may ask for: requests in a second, images in a day."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from cachetools import TTLCache
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerSecond
from limits.aio.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, RateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from starlette.types import Scope

from model_server.accounts.caller import Caller
from model_server.config import ENV_PREFIX, LEAST_RATE, QueueProxySettings
from model_server.errors import DatabaseError, SettingsError, TooManyRequests
from model_server.http.client_address import client_address, counted_as
from model_server.store import quotas
from model_server.store.database import Database
from model_server.store.quotas import Quota

logger = logging.getLogger(__name__)

REMEMBERED = 10_000
REQUESTS, IMAGES = "requests", "images"
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller may take: a moving window for requests, a fixed one for images; None: as much as they like."""

    requests: RateLimitItem | None
    images: RateLimitItem | None


NO_LIMITS = Allowance(None, None)


class Throttle:
    """Counts what callers take, in this process or in Redis.

    While Redis is away nobody is limited, nor is while PostgreSQL is, whose limits are not known then: predictions
    matter more than counting them.
    """

    def __init__(self, settings: QueueProxySettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._everybody = _allowance(Quota(), settings)
        self._own: TTLCache[UUID, Allowance] = TTLCache(REMEMBERED, settings.account_cache_seconds)
        try:
            storage = storage_from_string(f"async+{settings.limits_url}", wrap_exceptions=True, **_client(settings))
        except (ConfigurationError, ValueError) as error:
            raise SettingsError(f"{ENV_PREFIX}LIMITS_URL cannot be used: {error}.") from None
        self._moving = MovingWindowRateLimiter(storage)
        self._fixed = FixedWindowRateLimiter(storage)

    async def admit(self, scope: Scope, caller: Caller) -> dict[str, str]:
        """Count a request; return the headers that tell of limits. Raises TooManyRequests."""
        allowance, whose = await self._allowance(caller), self._key(scope, caller)
        limits: list[tuple[str, RateLimiter, RateLimitItem]] = []
        if allowance.requests:
            limits.append((REQUESTS, self._moving, allowance.requests))
        if allowance.images:
            limits.append((IMAGES, self._fixed, allowance.images))
        taken = [await self._take(name, limiter, item, whose) for name, limiter, item in limits]
        headers = _headers(limits, taken)
        for (name, _, item), (allowed, _, reset) in zip(limits, taken, strict=True):
            if not allowed:
                raise TooManyRequests(
                    f"More {name} than the {item.amount:,} that are allowed in {_span(item)}. Try again later.",
                    reset,
                    headers,
                )
        return headers

    async def charge(self, scope: Scope, caller: Caller, images: int) -> None:
        """Count images that were classified or queued."""
        allowance = await self._allowance(caller)
        if allowance.images and images:
            await _or_nobody_counts(self._fixed.hit, allowance.images, self._key(scope, caller), cost=images)

    def forget(self, user: UUID) -> None:
        """Read a user's limits anew."""
        self._own.pop(user, None)

    async def _take(self, name: str, limiter: RateLimiter, item: RateLimitItem, whose: str) -> tuple[bool, int, float]:
        """Return whether it is allowed, what remains, and in how many seconds there is more."""
        # Requests are counted before, images after, when it is known how many they are.
        ask = limiter.hit if name == REQUESTS else limiter.test
        allowed = await _or_nobody_counts(ask, item, whose)
        if allowed is None:
            return True, item.amount, 0
        stats = await _or_nobody_counts(limiter.get_window_stats, item, whose)
        remaining, reset = (stats.remaining, stats.reset_time - time.time()) if stats else (0, item.get_expiry())
        return allowed, max(0, remaining), max(0, reset)

    async def _allowance(self, caller: Caller) -> Allowance:
        user = caller.user_id
        if user is None:
            return self._everybody
        if (known := self._own.get(user)) is None:
            try:
                quota = await quotas.find(self._database, user)
            except DatabaseError:
                return NO_LIMITS
            known = self._own[user] = _allowance(quota, self._settings) if quota else self._everybody
        return known

    def _key(self, scope: Scope, caller: Caller) -> str:
        """Return what a caller is counted under: a key counts as its user, so that more keys give no more."""
        if caller.user_id is not None:
            return f"user/{caller.user_id.hex}"
        return f"address/{counted_as(client_address(scope, self._settings.trusted_proxies))}"


def _client(settings: QueueProxySettings) -> dict[str, str]:
    """Return which of the Redis clients is used, where there is to be one."""
    return {} if settings.limits_url.startswith("memory") else {"implementation": "redispy"}


def _allowance(quota: Quota, settings: QueueProxySettings) -> Allowance:
    rate = settings.requests_per_second if quota.requests_per_second is None else quota.requests_per_second
    burst = settings.requests_burst if quota.burst is None else quota.burst
    images = settings.images_per_day if quota.images_per_day is None else quota.images_per_day
    return Allowance(
        _moving_window(rate, burst) if rate else None, RateLimitItemPerDay(images, 1, IMAGES) if images else None
    )


def _moving_window(rate: float, burst: int) -> RateLimitItem:
    """Return the shortest window of whole seconds in which ``burst`` requests are no more than ``rate`` allows."""
    rate = max(rate, LEAST_RATE)  # one that was kept before there was a least may be any
    seconds = max(1, math.ceil(burst / rate))
    return RateLimitItemPerSecond(max(1, math.floor(rate * seconds)), seconds, REQUESTS)


async def _or_nobody_counts(
    ask: Callable[..., Awaitable[Value]], item: RateLimitItem, whose: str, **options: int
) -> Value | None:
    try:
        return await ask(item, whose, **options)
    except StorageError as error:
        logger.warning("limits are not counted: %s", type(error.storage_error).__name__)
        return None


def _headers(
    limits: list[tuple[str, RateLimiter, RateLimitItem]], taken: list[tuple[bool, int, float]]
) -> dict[str, str]:
    """Return ``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers-10)."""
    if not limits:
        return {}
    policies = [f'"{name}";q={item.amount};w={item.get_expiry()}' for name, _, item in limits]
    states = [
        f'"{name}";r={remaining};t={math.ceil(reset)}'
        for (name, _, _), (_, remaining, reset) in zip(limits, taken, strict=True)
    ]
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


def _span(item: RateLimitItem) -> str:
    seconds = item.get_expiry()
    return "24 hours" if seconds == 86400 else "1 second" if seconds == 1 else f"{seconds:,} seconds"
