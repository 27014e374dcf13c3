"""Two real predictors with two versions behind one door: who gets which, and what happens when one is away."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from conftest import DEFAULT_BUNDLE, Server, free_port, running_server, wait_until_answers
from model_server.config import QueueProxySettings
from model_server.queue_proxy.split import place, place_of, take_place
from model_server.store.identifiers import PLACES, new_id, place_in
from queue_server import IMAGE, Proxy, photo, running_proxy

STABLE, CANARY = "1", "2"
WEIGHTS = 75, 25


@pytest.fixture(scope="module")
def canary_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("canary") / "bundle"
    shutil.copytree(DEFAULT_BUNDLE, bundle)
    described = json.loads((bundle / "model.json").read_text())
    (bundle / "model.json").write_text(json.dumps({**described, "version": CANARY}))
    return bundle


@contextlib.contextmanager
def split_proxy(folder: Path, database_url: str, server: Server, canary_url: str) -> Iterator[Proxy]:
    predictors = [{"url": url, "weight": weight} for url, weight in zip((server.url, canary_url), WEIGHTS, strict=True)]
    settings = {"predictors": json.dumps(predictors), "retry_first_seconds": 0.1, "trusted_proxies": 1}
    with running_proxy(folder / "proxy", database_url, "http://unused", model=server.model, **settings) as proxy:
        yield proxy


def wait_for(look: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"still {seen!r} after {seconds} s"
        time.sleep(0.1)
    return seen


def address(number: int) -> str:
    return f"10.0.{number // 256}.{number % 256}"


def version_for(proxy: Proxy, caller: str, content: bytes | None = None) -> str:
    headers = {**IMAGE, "X-Forwarded-For": caller}
    reply = httpx.post(proxy.predict_url, content=content or photo(), headers=headers, timeout=30)
    return reply.headers["Model-Version"] if reply.status_code == 200 else str(reply.status_code)


def queued_version_for(proxy: Proxy, caller: str, content: bytes | None = None) -> str:
    reply = proxy.submit(content, X_Forwarded_For=caller)
    assert reply.status_code == 202, reply.text
    return wait_for(lambda: proxy.prediction(reply.json()["id"], wait=10)["model_version"])


def test_each_caller_stays_with_one_version_however_he_asks(
    tmp_path: Path, database_url: str, server: Server, canary_bundle: Path
) -> None:
    callers = [address(number) for number in range(60)]
    with (
        running_server(tmp_path / "canary", model_dir=canary_bundle) as canary,
        split_proxy(tmp_path, database_url, server, canary.url) as proxy,
    ):
        first = {caller: version_for(proxy, caller) for caller in callers}
        counts = Counter(first.values())
        assert counts.keys() == {STABLE, CANARY}
        assert 5 <= counts[CANARY] <= 27, "a quarter of 60, give or take three standard deviations"
        assert {caller: version_for(proxy, caller) for caller in callers} == first
        assert {caller: queued_version_for(proxy, caller) for caller in callers} == first

        content = photo()
        one_of_each = {version: next(caller for caller in callers if first[caller] == version) for version in counts}
        for _ in range(2):  # the second time from the cache
            for version, caller in one_of_each.items():
                assert version_for(proxy, caller, content) == version
                assert queued_version_for(proxy, caller, content) == version
        reply = httpx.get(f"{proxy.url}/v1/models", headers={"X-Forwarded-For": one_of_each[CANARY]})
        assert reply.json() == {"models": [server.model]}


def test_while_the_canary_is_away_its_callers_get_the_stable_version(
    tmp_path: Path, database_url: str, server: Server, canary_bundle: Path
) -> None:
    """And it is asked again as soon as it is back."""
    callers = [address(number) for number in range(30)]
    port = free_port()
    with split_proxy(tmp_path, database_url, server, f"http://127.0.0.1:{port}") as proxy:
        with running_server(tmp_path / "canary", model_dir=canary_bundle, port=port):
            tried = [caller for caller in callers if version_for(proxy, caller) == CANARY]
            assert tried
        answers = [version_for(proxy, tried[0]) for _ in range(6)]
        assert answers == ["503"] * 3 + [STABLE] * 3
        assert {queued_version_for(proxy, caller) for caller in tried} == {STABLE}
        away = "model_server_queue_proxy_predictor_away"
        assert f'{away}{{predictor="127.0.0.1:{port}"}} 1.0' in proxy.get("/metrics").text
        with running_server(tmp_path / "canary", model_dir=canary_bundle, port=port):
            wait_for(lambda: version_for(proxy, tried[0]) == CANARY)
            assert {version_for(proxy, caller) for caller in tried} == {CANARY}


def test_while_the_stable_version_is_away_nobody_else_tries_the_canary(
    tmp_path: Path, database_url: str, server: Server, canary_bundle: Path
) -> None:
    """Queued work waits for it."""
    callers = [address(number) for number in range(30)]
    port = free_port()
    with running_server(tmp_path / "canary", model_dir=canary_bundle) as canary:
        predictors = [{"url": f"http://127.0.0.1:{port}", "weight": 75}, {"url": canary.url, "weight": 25}]
        settings = {"predictors": json.dumps(predictors), "retry_first_seconds": 0.1, "trusted_proxies": 1}
        with running_proxy(tmp_path / "proxy", database_url, "http://unused", model=server.model, **settings) as proxy:
            versions = [version_for(proxy, caller) for caller in callers for _ in range(2)]
            assert set(versions) == {"503", CANARY}
            waiting = [proxy.submit(X_Forwarded_For=caller).json()["id"] for caller in callers]
            with running_server(tmp_path / "stable", port=port):
                ended = Counter(wait_for(lambda one=one: proxy.prediction(one, 10)["model_version"]) for one in waiting)
            assert ended == {STABLE: versions.count("503") // 2, CANARY: versions.count(CANARY) // 2}


def test_a_sleeping_predictors_model_is_named_where_the_name_is_set(tmp_path: Path, database_url: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with running_proxy(tmp_path / "named", database_url, nobody, model_name="flowers") as proxy:
        assert proxy.get("/v1/models").json() == {"models": ["flowers"]}
        assert proxy.get("/v1/models/flowers").status_code == 503
        wait_until_answers(f"{proxy.url}/healthz", proxy.process, proxy.log)
    with running_proxy(tmp_path / "unnamed", database_url, nobody) as proxy:
        assert proxy.get("/v1/models").status_code == 503


def place_for(user_id: UUID | None = None, client: str = "10.1.1.1", trusted_proxies: int = 0, **headers: str) -> int:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    settings = QueueProxySettings(trusted_proxies=trusted_proxies)
    take_place({"type": "http", "headers": named, "client": (client, 5000)}, settings, user_id)
    return place.get()


def test_a_user_has_one_place_from_everywhere() -> None:
    first, second = uuid4(), uuid4()
    assert place_for(first, idempotency_key="a") == place_for(first, "10.9.9.9", idempotency_key="b")
    assert place_for(first) != place_for(second)


def test_somebody_unknown_is_known_by_key_then_address() -> None:
    assert place_for(idempotency_key="k") == place_for(client="10.9.9.9", idempotency_key="k")
    assert place_for() == place_of("10.1.1.1") != place_for(client="10.1.1.2")
    assert place_for(x_forwarded_for="1.2.3.4", trusted_proxies=1) == place_of("1.2.3.4")
    assert place_for(x_forwarded_for="1.2.3.4") == place_of("10.1.1.1"), "nobody in front is trusted"


def test_callers_are_spread_evenly() -> None:
    quarters = Counter(place_of(str(uuid4())) * 4 // PLACES for _ in range(4000))
    assert all(850 < quarters[quarter] < 1150 for quarter in range(4)), quarters


def test_the_place_is_read_back_from_the_id() -> None:
    ids = [new_id(place) for place in range(0, PLACES, 37)]
    assert [place_in(one) for one in ids] == list(range(0, PLACES, 37))
    assert {(one.version, one.variant) for one in ids} == {(7, "specified in RFC 4122")}
