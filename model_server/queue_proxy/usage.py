"""Routes about who takes how much: usage of each user and day, and the quotas an administrator gives."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Any
from uuid import UUID

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.errors import Forbidden, InvalidInput, NotFound
from model_server.http import body
from model_server.http.replies import json_response
from model_server.queue_proxy.parts import Parts
from model_server.store import metering, quotas
from model_server.store.models import Record
from model_server.store.quotas import Quota

DEFAULT_DAYS = 30
DEFAULT_ROWS, MOST_ROWS = 1000, 10_000
MOST_SKIPPED = 10_000_000
QUOTA_BYTES = 4096
MOST_RATE, MOST_BURST, MOST_IMAGES = 100_000, 100_000, 10**12


class UsageRoutes:
    """One method a route."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def routes(self) -> list[Route]:
        """Return the routes."""
        quota = "/v1/quotas/{user}"
        return [
            Route("/v1/usage", self.usage, methods=["GET"]),
            Route(quota, self.quota, methods=["GET"]),
            Route(quota, self.set_quota, methods=["PUT"]),
            Route(quota, self.remove_quota, methods=["DELETE"]),
        ]

    async def usage(self, request: Request) -> Response:
        """Return the caller's usage by day; to an administrator everybody's, or that of one ``user``."""
        caller = await self._parts.authentication.admit(request.scope)
        query = request.query_params
        last = _day(query, "to", datetime.now(UTC).date())
        first = _day(query, "from", date.fromordinal(max(1, last.toordinal() - DEFAULT_DAYS + 1)))
        wanted = _user(query["user"]) if "user" in query else None
        if wanted and wanted != caller.user_id and not caller.is_admin:
            raise Forbidden("Only administrators see the usage of others.")
        await self._parts.metering.flush()
        rows = await metering.usage_page(
            self._parts.database,
            first,
            last,
            whose=wanted or caller.user_id,
            everybody=caller.is_admin and wanted is None,
            limit=_number(query, "limit", DEFAULT_ROWS, 1, MOST_ROWS),
            offset=_number(query, "offset", 0, 0, MOST_SKIPPED),
        )
        return json_response({"from": first.isoformat(), "to": last.isoformat(), "usage": [_used(row) for row in rows]})

    async def quota(self, request: Request) -> Response:
        """Return a user's own limits."""
        await self._parts.authentication.admin(request.scope)
        user = _user(request.path_params["user"])
        quota = await quotas.find(self._parts.database, user)
        if quota is None:
            raise NotFound("This user has no limits of their own: everybody's hold.")
        return json_response(_shown(user, quota))

    async def set_quota(self, request: Request) -> Response:
        """Give a user limits of their own."""
        await self._parts.authentication.admin(request.scope)
        user = _user(request.path_params["user"])
        content = await body.read(request.scope, request.receive, self._parts.settings, QUOTA_BYTES)
        quota = _quota(body.parse_json(content, self._parts.settings.max_json_values))
        if not await quotas.put(self._parts.database, user, quota):
            raise NotFound(f"There is no user {user}.")
        self._parts.throttle.forget(user)
        return json_response(_shown(user, quota))

    async def remove_quota(self, request: Request) -> Response:
        """Give a user everybody's limits again."""
        await self._parts.authentication.admin(request.scope)
        user = _user(request.path_params["user"])
        if not await quotas.delete(self._parts.database, user):
            raise NotFound("This user has no limits of their own: everybody's hold.")
        self._parts.throttle.forget(user)
        return Response(status_code=HTTPStatus.NO_CONTENT)


def _used(row: Record) -> dict[str, Any]:
    return {
        "user_id": None if row.user_id is None else str(row.user_id),
        "day": row.day.isoformat(),
        "requests": row.requests,
        "images": row.images,
        "compute_seconds": round(row.compute_seconds, 6),
        "bytes": row.bytes,
    }


def _shown(user: UUID, quota: Quota) -> dict[str, Any]:
    return {
        "user_id": str(user),
        "requests_per_second": quota.requests_per_second,
        "burst": quota.burst,
        "images_per_day": quota.images_per_day,
    }


def _quota(document: dict[str, Any]) -> Quota:
    body.only_keys(document, {"requests_per_second", "burst", "images_per_day"}, "field")
    rate = document.get("requests_per_second")
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if rate is not None and not (is_number and math.isfinite(rate) and 0 <= rate <= MOST_RATE):
        raise InvalidInput(f'"requests_per_second" is a number from 0, no limit, to {MOST_RATE:,}, or null.')
    return Quota(
        None if rate is None else float(rate),
        _integer(document, "burst", 1, MOST_BURST),
        _integer(document, "images_per_day", 0, MOST_IMAGES),
    )


def _integer(document: dict[str, Any], name: str, least: int, most: int) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidInput(f'"{name}" is an integer from {least} to {most:,}, or null.')
    return value


def _user(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"There is no user {text[:64]!r}.") from None


def _day(query: QueryParams, name: str, default: date) -> date:
    try:
        return date.fromisoformat(query[name]) if name in query else default
    except ValueError:
        raise InvalidInput(f"{name} is a day, UTC, such as 2026-01-31.") from None


def _number(query: QueryParams, name: str, default: int, least: int, most: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= 12 and least <= int(text) <= most):
        raise InvalidInput(f"{name} is an integer from {least} to {most:,}.")
    return int(text)
