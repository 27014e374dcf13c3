"""Routes about who takes how much: usage of each user and day, and the quotas an administrator gives."""

from __future__ import annotations

from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Field
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.config import LEAST_RATE
from model_server.documents.document import Document, read
from model_server.errors import Forbidden, InvalidInput, NotFound, shown
from model_server.http import body, json_body, numbers
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


def _rate(value: float) -> float:
    if value != 0 and value < LEAST_RATE:
        raise ValueError
    return value


class QuotaDocument(Document):
    """Limits of one user; null: everybody's."""

    requests_per_second: Annotated[float, Field(le=MOST_RATE), AfterValidator(_rate)] | None = Field(
        None, description=f"0, no limit, or a number from {LEAST_RATE} to {MOST_RATE:,}, or null"
    )
    burst: Annotated[int, Field(ge=1, le=MOST_BURST)] | None = Field(
        None, description=f"an integer from 1 to {MOST_BURST:,}, or null"
    )
    images_per_day: Annotated[int, Field(ge=0, le=MOST_IMAGES)] | None = Field(
        None, description=f"an integer from 0 to {MOST_IMAGES:,}, or null"
    )


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
        document = json_body.parse(content, self._parts.settings.max_json_values)
        quota = Quota(**read(QuotaDocument, document).model_dump())
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


def _user(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"There is no user {shown(text)}.") from None


def _day(query: QueryParams, name: str, default: date) -> date:
    found = numbers.day(query[name]) if name in query else default
    if found is None:
        raise InvalidInput(f"{name} is a day, UTC, such as 2026-01-31, not {shown(query[name])}.")
    return found


def _number(query: QueryParams, name: str, default: int, least: int, most: int) -> int:
    number = numbers.bounded_integer(query[name], least, most) if name in query else default
    if number is None:
        raise InvalidInput(f"{name} is an integer from {least} to {most:,}, not {shown(query[name])}.")
    return number
