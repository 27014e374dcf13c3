"""Who called what and took how much: over HTTP, through a real database, across replicas and restarts."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import make_url

from accounts_server import SECRET
from conftest import Server, cloned_database, free_port
from model_server.errors import DatabaseUnavailable
from model_server.queue_proxy.apis import NAMES, name_of
from model_server.queue_proxy.metering import Metering
from model_server.store import metering
from model_server.store.database import Database
from model_server.store.metering import Usage
from pictures import b64, draw, encode
from queue_server import ASYNC, IMAGE, PHOTO, Proxy, StubPredictor, answers, photo, rows, running_proxy
from test_drop_in import a_user

TODAY = datetime.now(UTC).date().isoformat()


@pytest.fixture(scope="module")
def stub() -> Iterator[StubPredictor]:
    with StubPredictor(answers()) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(stub: StubPredictor, postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    log = tmp_path_factory.mktemp("metering") / "log"
    with (
        cloned_database(postgres) as url,
        running_proxy(log, url, stub.url, token_secret=SECRET, account_cache_seconds=0) as running,
    ):
        yield running


def calls(proxy: Proxy, api: str, window: str = "hour") -> int:
    reply = proxy.get(f"/api/v1/statistics?api={api}&window={window}")
    assert reply.status_code == 200, reply.text
    assert reply.json()["api"] == api
    return reply.json()[f"number of calls in current {window}"]


def used(proxy: Proxy, headers: dict[str, str] | None = None, query: str = "") -> list[dict[str, Any]]:
    reply = proxy.get(f"/v1/usage{query}", **(headers or {}))
    assert reply.status_code == 200, reply.text
    return reply.json()["usage"]


class TestStatistics:
    def test_health_is_told_in_the_words_of_the_family(self, proxy: Proxy) -> None:
        assert proxy.get("/api/v1/health").json() == {"message": "Application is up and running"}

    def test_each_call_counts_at_once_in_every_window(self, proxy: Proxy) -> None:
        before = calls(proxy, "predict")
        for _ in range(3):
            httpx.post(f"{proxy.url}/predict", files={"file": PHOTO})
        assert calls(proxy, "predict") - before == 3
        for window in ("minute", "day"):
            assert calls(proxy, "/predict", window) >= 3
        reply = proxy.get("/api/v1/statistics?api=predict").json()
        assert reply.keys() == {"api", "number of calls in current minute"}

    @pytest.mark.parametrize(("query", "status"), [("", 404), ("?api=other", 404), ("?api=predict&window=week", 400)])
    def test_unknown_route_or_window_is_refused_with_what_there_is(self, proxy: Proxy, query: str, status: int) -> None:
        reply = proxy.get(f"/api/v1/statistics{query}")
        assert reply.status_code == status
        assert "minute" in reply.json()["error"] or "predict" in reply.json()["error"]

    def test_route_may_be_named_by_its_last_part(self, proxy: Proxy) -> None:
        assert calls(proxy, "health") >= 0

    def test_replicas_count_together_and_restarts_lose_nothing(
        self, stub: StubPredictor, postgres: str, tmp_path: Path
    ) -> None:
        with cloned_database(postgres) as url, ExitStack() as replicas:
            first = replicas.enter_context(running_proxy(tmp_path / "1", url, stub.url))
            second = replicas.enter_context(running_proxy(tmp_path / "2", url, stub.url))
            for proxy in (first, second, second):
                proxy.get("/v1/models")
            second.stop()  # writes what it has counted in its last second
            assert calls(first, "v1/models") == 3
            first.stop()
            third = replicas.enter_context(running_proxy(tmp_path / "3", url, stub.url))
            assert calls(third, "v1/models") == 3

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("/v1/models/cifar10:predict", "/v1/models"),
            ("/v2/models/cifar10/infer", "/v2"),
            ("/inference/image/", "/inference/image"),
            ("/inference", "/inference"),
            ("/predictions/0198", "/predictions"),
            ("/predicted", None),
            ("/healthz", None),
            ("/", None),
        ],
    )
    def test_path_is_counted_under_its_route(self, path: str, name: str | None) -> None:
        assert name_of(path) == name
        assert name is None or name in NAMES


class TestUsage:
    def test_user_sees_what_they_took_and_nobody_elses(self, proxy: Proxy, stub: StubPredictor) -> None:
        ada, bob = a_user(proxy), a_user(proxy)
        sent = [photo(), photo()]
        for content in sent:
            assert ada.send("POST", f"/v1/models/{proxy.model}:predict", content=content, headers=IMAGE).is_success
        (mine,) = used(proxy, ada.headers)
        assert mine["compute_seconds"] > 0
        del mine["compute_seconds"]
        size = sum(map(len, sent))
        assert mine == {"user_id": ada.id, "day": TODAY, "requests": 2, "images": 2, "bytes": size}
        assert used(proxy, bob.headers) == []
        assert proxy.get(f"/v1/usage?user={ada.id}", **bob.headers).status_code == 403

    def test_queued_prediction_is_charged_when_accepted_and_its_seconds_when_made(self, proxy: Proxy) -> None:
        user = a_user(proxy)
        document = {"instances": [{"b64": b64(encode(draw(10 + size, 10), "PNG"))} for size in range(3)]}
        reply = user.send(
            "POST", f"/v1/models/{proxy.model}:predict", json=document, headers={"Prefer": "respond-async, wait=20"}
        )
        assert reply.status_code == 200, reply.text
        (mine,) = used(proxy, user.headers)
        assert (mine["requests"], mine["images"]) == (1, 3)
        assert mine["compute_seconds"] > 0

    def test_reused_result_takes_no_seconds(self, proxy: Proxy) -> None:
        ada, bob, content = a_user(proxy), a_user(proxy), photo()
        for user in (ada, bob):
            user.send("POST", f"/v1/models/{proxy.model}:predict", content=content, headers=IMAGE)
        assert used(proxy, ada.headers)[0]["compute_seconds"] > 0
        assert used(proxy, bob.headers)[0]["compute_seconds"] == 0
        assert used(proxy, bob.headers)[0]["images"] == 1

    def test_users_of_one_second_are_written_together_whether_or_not_they_took_seconds(self, proxy: Proxy) -> None:
        now, later = a_user(proxy), a_user(proxy)
        path = f"/v1/models/{proxy.model}:predict"
        for _ in range(3):
            assert now.send("POST", path, content=photo(), headers=IMAGE).status_code == 200
            assert later.send("POST", path, content=photo(), headers=ASYNC).status_code == 202
            assert used(proxy, now.headers)
        assert used(proxy, later.headers)[0]["requests"] == 3

    def test_refused_image_counts_as_request_only(self, proxy: Proxy) -> None:
        user = a_user(proxy)
        assert user.send("POST", "/predict", files={"file": b"no image"}).status_code == 400
        (mine,) = used(proxy, user.headers)
        assert (mine["requests"], mine["images"]) == (1, 0)

    def test_administrator_sees_everybody(self, proxy: Proxy) -> None:
        user, admin = a_user(proxy), a_user(proxy, is_admin=True)
        user.send("POST", "/predict", files={"file": PHOTO})
        assert user.id in {row["user_id"] for row in used(proxy, admin.headers)}
        assert [row["user_id"] for row in used(proxy, admin.headers, f"?user={user.id}")] == [user.id]
        assert used(proxy, admin.headers, "?to=2020-01-01") == []
        assert len(used(proxy, admin.headers, "?limit=1")) == 1

    @pytest.mark.parametrize("query", ["from=yesterday", "limit=0", "offset=-1", "to=2026-13-01"])
    def test_wrong_question_is_400(self, proxy: Proxy, query: str) -> None:
        assert proxy.get(f"/v1/usage?{query}").status_code == 400

    def test_predictor_says_how_many_images_a_request_has(self, server: Server, postgres: str, tmp_path: Path) -> None:
        """Of bodies that pass through unread, nobody else knows."""
        with (
            cloned_database(postgres) as url,
            running_proxy(tmp_path / "log", url, server.url, model=server.model) as proxy,
        ):
            image = b64(encode(draw()))
            tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": [image, image]}
            infer = f"{proxy.url}/v2/models/{server.model}/infer"
            assert httpx.post(infer, json={"inputs": [tensor]}).status_code == 200
            assert httpx.post(proxy.predict_url, json={"instances": [{"b64": image}] * 3}).status_code == 200
            large = {"instances": [{"b64": b64(encode(draw(900, 700), "BMP"))}] * 2}
            assert len(json.dumps(large)) > 2**20, "too small to pass through as a stream"
            assert httpx.post(proxy.predict_url, json=large).status_code == 200
            (row,) = used(proxy)
            assert (row["user_id"], row["requests"], row["images"]) == (None, 3, 7)

    def test_counts_survive_an_outage_of_the_database(self) -> None:
        """What cannot be written is kept, and written once when it can."""

        async def count() -> None:
            away = Database(make_url(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none"), 2)
            counts = Metering(away)
            counts.called("/predict")
            counts.used(None, Usage(requests=1, bytes=5))
            for _ in range(2):
                with pytest.raises(DatabaseUnavailable):
                    await counts.flush()
                counts.called("/predict")
                counts.used(None, Usage(requests=1, bytes=5))
            assert sum(counts._calls.values()) == 3
            assert [(usage.requests, usage.bytes) for usage in counts._usage.values()] == [(3, 15)]
            await away.close()

        asyncio.run(count())

    def test_old_windows_are_removed_and_usage_is_kept(self, database_url: str) -> None:
        async def sweep() -> None:
            database = Database(make_url(database_url).set(drivername="postgresql+psycopg"), 2)
            now = int(time.time())
            old = {("/predict", unit, now - 5 * seconds): 1 for unit, seconds in metering.UNITS.items()}
            new = {("/predict", unit, now - now % seconds): 1 for unit, seconds in metering.UNITS.items()}
            day = datetime(2020, 1, 1, tzinfo=UTC).date()
            await metering.add(database, {**old, **new}, {(None, day): Usage(requests=1)})
            await metering.sweep(database)
            await database.close()

        asyncio.run(sweep())
        assert rows(database_url, "SELECT count(*) FROM api_calls") == [(len(metering.UNITS),)]
        assert rows(database_url, "SELECT count(*) FROM usage") == [(1,)]


def test_counting_costs_less_than_a_tenth_of_a_millisecond() -> None:
    counts, number = Metering(None), 20_000  # type: ignore[arg-type]
    begun = time.process_time()
    for _ in range(number):
        counts.called(name_of("/v1/models/cifar10:predict") or "")
        counts.used(None, Usage(1, 1, 0.01, 50_000))
    assert (time.process_time() - begun) / number < 100e-6


class TestLimits:
    @pytest.fixture
    def limited(self, stub: StubPredictor, database_url: str, tmp_path: Path) -> Iterator[Proxy]:
        limits = {"requests_per_second": 0.1, "requests_burst": 3, "images_per_day": 10}
        common = {"token_secret": SECRET, "account_cache_seconds": 0, "trusted_proxies": 1}
        with running_proxy(tmp_path / "log", database_url, stub.url, **limits, **common) as running:
            yield running

    def test_burst_is_taken_and_then_it_is_429_with_the_time_to_come_back(self, limited: Proxy) -> None:
        taken = [httpx.post(f"{limited.url}/predict", files={"file": PHOTO}) for _ in range(4)]
        assert [reply.status_code for reply in taken] == [200, 200, 200, 429]
        assert taken[0].headers["RateLimit-Policy"] == '"requests";q=3;w=30, "images";q=10;w=86400'
        assert taken[0].headers["RateLimit"].startswith('"requests";r=2;t=')
        assert 1 <= int(taken[3].headers["Retry-After"]) <= 30
        assert taken[3].headers["RateLimit"].startswith('"requests";r=0;t=')
        assert "30 seconds" in taken[3].json()["error"]
        assert limited.get("/v1/models").status_code == 200, "metadata are for everybody"

    def test_callers_do_not_use_up_each_others_share(self, limited: Proxy) -> None:
        addresses = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in (1, 2)]
        user = a_user(limited)
        for headers in [*addresses, user.headers]:
            codes = [
                httpx.post(limited.predict_url, content=PHOTO, headers={**IMAGE, **headers}).status_code
                for _ in range(4)
            ]
            assert codes == [200, 200, 200, 429]

    def test_images_of_a_day_are_limited_and_an_administrator_gives_a_user_more(self, limited: Proxy) -> None:
        user, admin = a_user(limited), a_user(limited, is_admin=True)
        quota = f"/v1/quotas/{user.id}"
        assert admin.send("GET", quota).status_code == 404
        given = admin.send("PUT", quota, json={"requests_per_second": 0, "images_per_day": 2})
        assert given.json() == {"user_id": user.id, "requests_per_second": 0.0, "burst": None, "images_per_day": 2}

        def ask() -> httpx.Response:
            return user.send("POST", f"/v1/models/{limited.model}:predict", content=PHOTO, headers=IMAGE)

        replies = [ask() for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert "24 hours" in replies[2].json()["error"]
        assert 80_000 < int(replies[2].headers["Retry-After"]) <= 86_400
        admin.send("PUT", quota, json={"requests_per_second": 0, "images_per_day": 0})
        assert "RateLimit" not in ask().headers
        assert admin.send("DELETE", quota).status_code == 204
        assert '"requests";q=3' in ask().headers["RateLimit-Policy"]

    def test_quotas_are_an_administrators_to_give(self, limited: Proxy) -> None:
        user, admin = a_user(limited), a_user(limited, is_admin=True)
        quota = f"/v1/quotas/{user.id}"
        assert httpx.put(limited.url + quota, json={}).status_code == 401
        for method in ("GET", "PUT", "DELETE"):
            assert user.send(method, quota, json={}).status_code == 403
        unknown = "/v1/quotas/0198f3a2-ac96-774b-bcce-b302099a8057"
        assert admin.send("PUT", unknown, json={}).status_code == 404
        for wrong in ({"burst": 0}, {"requests_per_second": -1}, {"images_per_day": "many"}, {"other": 1}):
            assert admin.send("PUT", quota, json=wrong).status_code == 400

    def test_replicas_share_limits_in_redis_and_do_without_it(
        self, stub: StubPredictor, database_url: str, tmp_path: Path
    ) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed")
        port = free_port()
        command = [program, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(tmp_path)]
        limits = {"requests_per_second": 0.1, "requests_burst": 3, "limits_url": f"redis://127.0.0.1:{port}"}
        with ExitStack() as stack:
            redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            stack.callback(redis.wait)
            stack.callback(redis.kill)
            first, second = (
                stack.enter_context(running_proxy(tmp_path / name, database_url, stub.url, **limits))
                for name in ("first", "second")
            )
            codes = [
                httpx.post(proxy.predict_url, content=PHOTO, headers=IMAGE).status_code
                for proxy in (first, second, first, second)
            ]
            assert codes == [200, 200, 200, 429]
            redis.kill()
            redis.wait()
            assert httpx.post(first.predict_url, content=PHOTO, headers=IMAGE).status_code == 200
