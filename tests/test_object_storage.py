"""Images outside of the database: in S3, of which a real server runs, and in a folder."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import make_url

from conftest import end_process, free_port
from model_server.errors import SettingsError, Unavailable
from model_server.store.database import Database
from model_server.store.images import Images
from model_server.store.object_storage import ObjectStorage, open_storage
from queue_server import Proxy, StubPredictor, answers, photo, rows, running_proxy

AWS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
BUCKET = "pictures"


class S3:
    """A server of the protocol, which may be ended and started anew, empty."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert httpx.put(f"{self.url}/{BUCKET}").status_code == 200

    def end(self) -> None:
        if self.process:
            end_process(self.process)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    server = S3(free_port())
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**AWS, "AWS_ENDPOINT_URL": server.url}.items():
        monkeypatch.setenv(name, value)
    server.start()
    try:
        yield server
    finally:
        server.end()


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://{BUCKET}/some/prefix"
    return f"file://{tmp_path}/images"


def submitted(proxy: Proxy, content: bytes) -> dict[str, Any]:
    reply = proxy.submit(content, Prefer="respond-async, wait=20")
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_image_is_kept_outside_and_found_by_dispatcher_and_caller(
    store: str, database_url: str, tmp_path: Path
) -> None:
    content = photo()
    with (
        StubPredictor(answers()) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url, image_store=store) as proxy,
    ):
        prediction = submitted(proxy, content)
        assert prediction["status"] == "succeeded"
        assert stub.bodies == [content]
        image = proxy.get(prediction["links"]["image"])
        assert (image.content, image.headers["Content-Type"]) == (content, "image/jpeg")
    sha256 = hashlib.sha256(content).hexdigest()
    assert rows(database_url, "SELECT content, location FROM images") == [(None, f"{store}/{sha256[:2]}/{sha256}")]


def test_images_of_before_stay_where_they_are(store: str, database_url: str, tmp_path: Path) -> None:
    content = photo()
    with StubPredictor(answers()) as stub:
        with running_proxy(tmp_path / "1", database_url, stub.url) as proxy:
            before = submitted(proxy, content)
        with running_proxy(tmp_path / "2", database_url, stub.url, image_store=store) as proxy:
            assert proxy.get(before["links"]["image"]).content == content
            submitted(proxy, photo())
    kept = rows(database_url, "SELECT content IS NULL, location IS NULL FROM images ORDER BY created_at")
    assert kept == [(False, True), (True, False)]


def test_store_that_is_away_is_503_to_callers_and_a_retry_to_the_dispatcher(
    s3: S3, database_url: str, tmp_path: Path
) -> None:
    content = photo()
    settings: dict[str, Any] = {"image_store": f"s3://{BUCKET}", "retry_first_seconds": 0.2, "retry_most_seconds": 0.5}
    with StubPredictor(answers()) as stub:
        with running_proxy(tmp_path / "1", database_url, stub.url, arguments=["--no-dispatch"], **settings) as proxy:
            identifier = proxy.submit(content).json()["id"]
        s3.end()
        with running_proxy(tmp_path / "2", database_url, stub.url, **settings) as proxy:
            refused = proxy.submit()
            assert refused.status_code == 503
            assert "Retry-After" in refused.headers
            assert refused.json() == {"error": "The image store does not answer. Try again later."}
            assert proxy.get(f"/v1/predictions/{identifier}/image").status_code == 503
            deadline = time.monotonic() + 20
            while (waiting := proxy.prediction(identifier))["attempts"] < 2:
                assert time.monotonic() < deadline, waiting
                time.sleep(0.1)
            assert waiting["status"] in {"queued", "running"}
            assert proxy.get("/readyz").status_code == 200, "synchronous predictions need no store"
            s3.start()
            asyncio.run(ObjectStorage(f"s3://{BUCKET}").put(hashlib.sha256(content).digest(), content))
            ended = proxy.prediction(identifier, wait=20)
            assert ended["status"] == "succeeded", ended
            assert submitted(proxy, photo())["status"] == "succeeded"


def test_image_that_nobody_refers_to_is_removed_with_its_object(store: str, database_url: str) -> None:
    used, unused = photo(), photo()

    async def sweep() -> None:
        database = Database(make_url(database_url).set(drivername="postgresql+psycopg"), 2)
        storage = ObjectStorage(store)
        images = Images(database, storage)
        for content in (used, unused):
            await images.keep(hashlib.sha256(content).digest(), "image/jpeg", content)
        assert await images.sweep(600, 10) == 0, "its prediction may be on its way"
        rows(
            database_url,
            "INSERT INTO predictions (id, status, model, image_sha256, parameters, priority, deadline) "
            "VALUES (gen_random_uuid(), 'succeeded', 'm', %s, '{}', 3, now())",
            hashlib.sha256(used).digest(),
        )
        assert await images.sweep(0, 10) == 1
        assert await images.outside(hashlib.sha256(used).digest()) == used
        with pytest.raises(Unavailable):
            await images.outside(hashlib.sha256(unused).digest())
        await storage.remove([hashlib.sha256(unused).digest()])
        await database.close()

    asyncio.run(sweep())
    assert rows(database_url, "SELECT sha256 FROM images") == [(hashlib.sha256(used).digest(),)]


def test_images_in_a_store_that_is_not_used_any_more_do_not_hold_up_the_clean_up(database_url: str) -> None:
    rows(
        database_url,
        "INSERT INTO images (sha256, media_type, content, location, size) "
        "VALUES ('1', 'image/png', NULL, 's3://b/1', 1), ('2', 'image/png', NULL, 's3://b/2', 1), "
        "('3', 'image/png', 'x', NULL, NULL)",
    )

    async def sweep() -> None:
        database = Database(make_url(database_url).set(drivername="postgresql+psycopg"), 2)
        assert await Images(database, None).sweep(0, 2) == 1
        await database.close()

    asyncio.run(sweep())
    assert rows(database_url, "SELECT sha256 FROM images ORDER BY sha256") == [(b"1",), (b"2",)]


def test_clean_up_waits_for_a_store_that_is_away(s3: S3, database_url: str) -> None:
    content = photo()

    async def sweep() -> None:
        database = Database(make_url(database_url).set(drivername="postgresql+psycopg"), 2)
        images = Images(database, ObjectStorage(f"s3://{BUCKET}"))
        await images.keep(hashlib.sha256(content).digest(), "image/jpeg", content)
        s3.end()
        with pytest.raises(Unavailable):
            await images.sweep(0, 10)
        await database.close()

    asyncio.run(sweep())
    assert rows(database_url, "SELECT count(*) FROM images") == [(1,)]


@pytest.mark.parametrize("url", ["s3:pictures", "gs://pictures", "file://relative", "postgres", "s3://"])
def test_other_urls_are_refused_at_the_start(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_server.config import QueueProxySettings, load

    monkeypatch.setenv("MODEL_SERVER_IMAGE_STORE", url)
    with pytest.raises(SettingsError, match="MODEL_SERVER_IMAGE_STORE"):
        load(QueueProxySettings)


def test_the_database_is_no_store_of_objects() -> None:
    assert open_storage("postgres:") is None
