"""Predictors that come and go while requests are on their way: the file that the queue-proxy reads anew."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from conftest import Server, running_server
from model_server.config import QueueProxySettings
from model_server.errors import SettingsError
from model_server.queue_proxy.predictors_file import first_predictors
from queue_server import constant_load, running_proxy
from test_config import NO_URLS
from test_split import CANARY, STABLE, canary_bundle, version_for, wait_for  # noqa: F401 - a fixture among them

WRONG = [
    *(b"", b"[]", b"{", b"null", b"[null]", b'[{"url": "http://a"}]', b"\xff", b"[" * 5000),
    *(json.dumps([{"url": url, "weight": 1}]).encode() for url in NO_URLS),
    *(json.dumps([{"url": "http://a", "weight": weight}]).encode() for weight in (0, -1, 10**30, 1.5, "x", None)),
    b'[{"url": "http://a", "weight": NaN}]',
    b'[{"url": "http://\\ud800", "weight": 1}]',
]


def write(path: Path, **weights: int) -> None:
    """Put the whole file there at once, as an editor's save or a ConfigMap does."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps([{"url": url, "weight": weight} for url, weight in weights.items()]))
    fresh.replace(path)


def test_predictors_are_exchanged_without_a_lost_request(
    tmp_path: Path,
    database_url: str,
    server: Server,
    canary_bundle: Path,  # noqa: F811
) -> None:
    file = tmp_path / "predictors.json"
    write(file, **{server.url: 1})
    with (
        running_server(tmp_path / "canary", model_dir=canary_bundle) as canary,
        running_proxy(
            tmp_path / "proxy", database_url, "http://unused", model=server.model, predictors_file=file
        ) as proxy,
    ):
        gone = server.url.removeprefix("http://")
        with constant_load(proxy.predict_url, 4, queued={1, 3}) as seen:
            wait_for(lambda: len(seen) > 20)
            write(file, **{canary.url: 1})
            wait_for(lambda: f'predictor_weight{{predictor="{gone}"}}' not in proxy.get("/metrics").text)
            until = len(seen)
            wait_for(lambda: len(seen) > until + 20)
            write(file, **{server.url: 1})
            wait_for(lambda: seen[-1] == STABLE)
        counts = Counter(seen)
        assert counts.keys() == {STABLE, CANARY}, counts
        assert set(seen[until + 8 : until + 20]) == {CANARY}, "the one that is gone is asked no more"


def test_a_file_that_is_wrong_changes_nothing(tmp_path: Path, database_url: str, server: Server) -> None:
    file = tmp_path / "predictors.json"
    write(file, **{server.url: 1})
    with running_proxy(
        tmp_path / "proxy", database_url, "http://unused", model=server.model, predictors_file=file
    ) as proxy:
        for count, wrong in enumerate(WRONG, start=1):
            file.write_bytes(wrong)
            wait_for(lambda said=count: proxy.log.read_text().count("the predictors stay as they are") >= said)
            assert version_for(proxy, "10.0.0.1") == STABLE
        assert proxy.log.read_text().count("the predictors stay as they are") == len(WRONG)
        assert "Traceback" not in proxy.log.read_text()
        file.unlink()
        time.sleep(0.6)
        assert version_for(proxy, "10.0.0.1") == STABLE


@pytest.mark.parametrize("content", [None, "[]", '[{"url": "http://a"}]'])
def test_a_file_that_is_wrong_at_the_start_ends_it_with_a_sentence(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "predictors.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match="MODEL_SERVER_PREDICTORS_FILE="):
        first_predictors(QueueProxySettings(predictors_file=file))
