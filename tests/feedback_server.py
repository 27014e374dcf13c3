"""A feedback service in a process of its own, and predictions to judge, written as the queue would have left them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
from sqlalchemy.engine import make_url

import accounts_server
from accounts_server import SECRET
from model_server.accounts import tokens
from model_server.store import retention
from model_server.store.database import Database
from model_server.store.identifiers import new_id
from model_server.store.images import Images
from model_server.store.object_storage import open_storage
from queue_server import rows

LABELS = ["bird", "cat", "dog", "frog"]
MODEL, VERSION = "pets", "1"


@dataclass(frozen=True)
class User:
    """Somebody who sends requests: with a token, with a browser's cookies, or with neither."""

    service: FeedbackService
    id: UUID | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        return httpx.request(method, self.service.url + path, headers=headers, timeout=30, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def give(self, prediction: UUID | str | None = None, **said: Any) -> httpx.Response:
        about = {} if prediction is None else {"prediction_id": str(prediction)}
        return self.request("POST", "/feedback/", json={**about, **said})


@dataclass(frozen=True)
class FeedbackService:
    """A running feedback service."""

    url: str
    database_url: str

    @property
    def anonymous(self) -> User:
        return User(self)

    def browser(self, cookie: str) -> User:
        return User(self, headers={"Cookie": f"model-server-visitor={cookie * 22}"})

    def user(self, name: str = "somebody", *, admin: bool = False) -> User:
        """Make an account and return its owner, with a token."""
        identifier, email = new_id(), f"{name}-{os.urandom(4).hex()}@example.com"
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO users (id, name, email, email_key, password_hash, is_admin) VALUES (%s,%s,%s,%s,'-',%s)",
                (identifier, name, email, email, admin),
            )
        token = tokens.issue(SECRET.encode(), identifier, 600)
        return User(self, identifier, {"Authorization": f"Bearer {token}"})


@contextlib.contextmanager
def running_feedback(log: Path, database_url: str, **settings: object) -> Iterator[FeedbackService]:
    """Start a feedback service with MODEL_SERVER_ settings and wait until it is ready."""
    with accounts_server.running_feedback(log, database_url, token_secret=SECRET, **settings) as (url, _):
        yield FeedbackService(url, database_url)


def know_labels(database_url: str, model: str = MODEL, version: str = VERSION, labels: list[str] = LABELS) -> None:
    """Keep a version's labels as the queue-proxy does once it has answered."""
    rows(
        database_url,
        "INSERT INTO model_labels VALUES (%s, %s, %s, now()) RETURNING model",
        model,
        version,
        labels,
    )


def add_prediction(  # noqa: PLR0913 - each is one thing that tests change
    database_url: str,
    label: str = "cat",
    score: float = 0.9,
    *,
    picture: bytes | None = None,
    model: str = MODEL,
    version: str = VERSION,
    user: UUID | None = None,
    at: datetime | None = None,
    status: str = "succeeded",
    images: int = 1,
) -> UUID:
    """Write a prediction and, where there is one, its picture; return the id."""
    identifier, at = new_id(), at or datetime.now(UTC)
    sha256 = None if picture is None else hashlib.sha256(picture).digest()
    scored = {"label": label, "index": 0, "score": score}
    results = json.dumps([{**scored, "top": [scored]}] * images) if status == "succeeded" else None
    with psycopg.connect(database_url, autocommit=True) as connection:
        if picture is not None:
            connection.execute(
                "INSERT INTO images (sha256, media_type, content) VALUES (%s, 'image/png', %s) ON CONFLICT DO NOTHING",
                (sha256, picture),
            )
        connection.execute(
            """
            INSERT INTO predictions (id, user_id, status, model, model_version, image_sha256, parameters, priority,
              created_at, deadline, finished_at, predictions)
            VALUES (%s, %s, %s, %s, %s, %s, '{}', 3, %s, %s, %s, %s)
            """,
            (identifier, user, status, model, version, sha256, at, at, None if status == "running" else at, results),
        )
    return identifier


def end_retention(database_url: str, image_store: str = "postgres:") -> None:
    """Remove all predictions that have ended, as the queue-proxy does when their time is up."""
    for statement in ("UPDATE predictions SET finished_at = %s", "UPDATE images SET created_at = %s"):
        rows(database_url, statement, datetime.now(UTC) - timedelta(days=9))

    async def sweep() -> None:
        database = Database(make_url(database_url).set(drivername="postgresql+psycopg"), 2)
        await retention.sweep(database, Images(database, open_storage(image_store)), 3600)
        await database.close()

    asyncio.run(sweep())
