"""Starting, being ready, being busy, ending: what an orchestrator sees of one predictor."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from conftest import DEFAULT_BUNDLE, Server, running_server
from pictures import b64, draw, encode

PHOTO = encode(draw())
IMAGE = {"Content-Type": "image/jpeg"}
LARGE = encode(draw(4000, 3000), "PNG")
"""A picture that takes tens of milliseconds to decode."""


def large_request(images: int = 40) -> dict:
    return {"instances": [{"b64": b64(LARGE)}] * images}


def in_background(work: Callable[[], httpx.Response]) -> tuple[threading.Thread, list[httpx.Response]]:
    replies: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: replies.append(work()))
    thread.start()
    return thread, replies


def wait_for_in_flight(server: Server) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if 'requests_in_flight{protocol="v1"} 1.0' in httpx.get(f"{server.url}/metrics").text:
            return
        time.sleep(0.01)
    pytest.fail("the request never arrived")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a copy of the default bundle, to be broken."""
    return shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle")


def edit_manifest(bundle: Path, edit: Callable[[dict], None]) -> None:
    manifest = json.loads((bundle / "model.json").read_text())
    edit(manifest)
    (bundle / "model.json").write_text(json.dumps(manifest))


def other_golden_score(bundle: Path) -> str:
    def edit(manifest: dict) -> None:
        scores = manifest["golden"][1]["scores"]
        scores[0] += 0.2

    edit_manifest(bundle, edit)
    return json.loads((bundle / "model.json").read_text())["golden"][1]["file"]


def altered_artifact(bundle: Path) -> str:
    content = bytearray((bundle / "model.tflite").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.tflite").write_bytes(content)
    return "altered"


def missing_labels(bundle: Path) -> str:
    (bundle / "labels.txt").unlink()
    return "labels.txt is missing"


@pytest.mark.parametrize("damage", [other_golden_score, altered_artifact, missing_labels])
def test_a_model_that_fails_its_checks_is_alive_and_never_ready(client, tmp_path, bundle, damage):
    reason = damage(bundle)
    with running_server(tmp_path / "log", ready=False, model_dir=bundle) as server:
        deadline = time.monotonic() + 30
        while "not ready" not in server.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        model = f"{server.url}/v2/models/{server.model}"
        for path in (
            f"{model}/ready",
            f"{server.url}/v2/health/ready",
            f"{server.url}/v1/models/{server.model}",
        ):
            reply = client.get(path)
            assert reply.status_code == 503
            assert reason in reply.json()["error"]
        reply = client.post(server.predict_url, content=PHOTO, headers=IMAGE)
        assert (reply.status_code, list(reply.json())) == (503, ["error"])
        assert client.get(f"{server.url}/v2/health/live").status_code == 200


def test_a_folder_without_a_model_says_what_it_lacks(client, tmp_path):
    (tmp_path / "empty").mkdir()
    with running_server(tmp_path / "log", ready=False, model_dir=tmp_path / "empty") as server:
        time.sleep(0.5)
        assert "no model.json, model.tflite" in client.get(f"{server.url}/v2/health/ready").json()["error"]


def test_health_answers_while_the_workers_are_busy(client, server):
    thread, replies = in_background(lambda: httpx.post(server.predict_url, json=large_request(), timeout=120))
    wait_for_in_flight(server)
    answered = 0
    while thread.is_alive():
        assert client.get(f"{server.url}/v2/health/live").status_code == 200
        answered += 1
        time.sleep(0.01)
    thread.join()
    assert replies[0].status_code == 200
    assert answered > 5


def test_sigterm_finishes_what_is_in_flight_and_refuses_what_is_new(start_server):
    with start_server() as server:
        thread, replies = in_background(lambda: httpx.post(server.predict_url, json=large_request(), timeout=120))
        wait_for_in_flight(server)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert thread.is_alive(), "the request ended before the signal: it proves nothing"
        with pytest.raises(httpx.TransportError):
            httpx.post(server.predict_url, content=PHOTO, headers=IMAGE)
        thread.join()
        assert replies[0].status_code == 200
        assert len(replies[0].json()["predictions"]) == 40
        assert server.process.wait(20) == 0


def test_an_idle_server_ends_at_once_on_ctrl_c(start_server):
    with start_server() as server, httpx.Client() as keep_alive:
        keep_alive.get(f"{server.url}/v2/health/live")
        begun = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("variable", ["MODEL_SERVER_PREDICTOR_PORT", "MODEL_SERVER_PREDICTOR_GRPC_PORT"])
def test_a_taken_port_is_named_with_the_setting_that_changes_it(variable):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        option = "--port" if variable.endswith("PREDICTOR_PORT") else "--grpc-port"
        command = [sys.executable, "-m", "model_server", "predictor", "--host", "127.0.0.1", "--port", "0"]
        command += [option, str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert variable in done.stderr
    assert "Traceback" not in done.stderr


def test_metrics_count_requests_errors_and_stages(client, start_server):
    with start_server() as server:
        for content in (PHOTO, PHOTO, b"no image"):
            client.post(server.predict_url, content=content, headers=IMAGE)
        client.post(server.infer_url, json={"inputs": []})
        samples = dict(
            line.rsplit(" ", 1) for line in client.get(f"{server.url}/metrics").text.splitlines() if line[0] != "#"
        )
    prefix = "model_server_predictor"
    assert samples[f'{prefix}_requests_total{{protocol="v1",status="200"}}'] == "2.0"
    assert samples[f'{prefix}_requests_total{{protocol="v1",status="400"}}'] == "1.0"
    assert samples[f'{prefix}_errors_total{{protocol="v1",status="400"}}'] == "1.0"
    assert samples[f'{prefix}_errors_total{{protocol="v2",status="400"}}'] == "1.0"
    assert samples[f'{prefix}_requests_in_flight{{protocol="v1"}}'] == "0.0"
    assert samples[f"{prefix}_queue_length"] == "0.0"
    assert samples[f"{prefix}_batch_size_sum"] == "2.0"
    assert samples[f"{prefix}_inference_seconds_count"] == "2.0"
    assert samples[f"{prefix}_decode_seconds_count"] == "3.0"
    assert samples[f'{prefix}_request_seconds_count{{protocol="v1"}}'] == "3.0"
    assert samples[f"{prefix}_ready"] == "1.0"
    assert any(line.startswith(f"{prefix}_model_info") and f'name="{server.model}"' in line for line in samples)
