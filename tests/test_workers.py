"""Worker processes: an even share each, no harm to others when one dies, none that outlives the server."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import psutil
import pytest

from conftest import DEFAULT_BUNDLE, Server
from model_server import runtimes
from pictures import b64, draw, encode

PHOTO = encode(draw())
IMAGE = {"Content-Type": "image/jpeg"}
SLOW = {"instances": [{"b64": b64(encode(draw(4000, 3000), "PNG"))}] * 8}


def workers_of(server: Server) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(server.process.pid).children()
        if "model_server.decoding.worker" in child.cmdline()
    ]


def wait_until(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def sample(server: Server, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"model_server_predictor_{name} "))


def predict(server: Server) -> httpx.Response:
    return httpx.post(server.predict_url, content=PHOTO, headers=IMAGE, timeout=30)


@pytest.fixture
def two_workers(start_server):
    with start_server(workers=2) as server:
        yield server


def test_both_workers_get_their_share_of_one_connections_work(two_workers):
    before = [worker.cpu_times().user for worker in workers_of(two_workers)]
    assert httpx.post(two_workers.predict_url, json=SLOW, timeout=60).status_code == 200
    used = [worker.cpu_times().user - old for worker, old in zip(workers_of(two_workers), before, strict=True)]
    assert min(used) > sum(used) / 4, used


def test_a_worker_that_is_killed_fails_one_image_and_is_replaced(two_workers):
    first, second = workers_of(two_workers)
    first.suspend()  # what it is given stays in its hands
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        requests = [pool.submit(predict, two_workers) for _ in range(6)]
        wait_until(lambda: sum(request.done() for request in requests) == 5)
        first.kill()
        replies = [request.result() for request in requests]
    assert sorted(reply.status_code for reply in replies) == [200] * 5 + [503]
    failed = next(reply for reply in replies if reply.status_code == 503)
    assert "Retry-After" in failed.headers
    assert "worker" in failed.json()["error"]
    wait_until(lambda: sample(two_workers, "workers") == 2)
    assert sample(two_workers, "worker_restarts_total") == 1
    assert second in workers_of(two_workers)
    assert predict(two_workers).status_code == 200


def test_without_a_living_worker_the_model_is_not_ready_until_there_is_one_again(two_workers):
    ready = f"{two_workers.url}/v2/models/{two_workers.model}/ready"
    for worker in workers_of(two_workers):
        worker.kill()
    wait_until(lambda: httpx.get(ready).status_code == 503)
    assert httpx.get(f"{two_workers.url}/v2/health/live").status_code == 200
    assert predict(two_workers).status_code == 200, "it waits for the new worker"
    wait_until(lambda: httpx.get(ready).status_code == 200)


def test_a_replacement_never_serves_another_model_than_the_others(client, start_server, tmp_path):
    """The model's folder is changed under a running server, whose worker then dies."""
    bundle = shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle")
    with start_server(workers=2, model_dir=bundle) as server:
        manifest = json.loads((bundle / "model.json").read_text())
        (bundle / "model.json").write_text(json.dumps(manifest | {"version": "other"}))
        workers_of(server)[0].kill()
        wait_until(lambda: "folder has changed" in server.log.read_text())
        for _ in range(5):
            reply = client.post(server.predict_url, content=PHOTO, headers=IMAGE)
            assert (reply.status_code, reply.headers["Model-Version"]) == (200, manifest["version"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_server(start_server, number):
    with start_server(workers=2) as server:
        workers = workers_of(server)
        assert len(workers) == 2
        server.process.send_signal(number)
        server.process.wait(20)
        _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def test_ctrl_c_that_reaches_the_workers_too_loses_no_request(two_workers):
    """A terminal sends SIGINT to every process of the foreground."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        request = pool.submit(httpx.post, two_workers.predict_url, json=SLOW, timeout=60)
        wait_until(lambda: sample(two_workers, "queue_length") > 0)
        for process in (*workers_of(two_workers), two_workers.process):
            process.send_signal(signal.SIGINT)
        assert request.result().status_code == 200
    assert two_workers.process.wait(20) == 0


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_openvino_leaves_the_choice_of_the_core_to_the_system() -> None:
    """Each worker process would pin its inference to the first core: all of them would share that one."""
    network = runtimes.load("openvino", DEFAULT_BUNDLE / "model.tflite", threads=1)
    infer, image = network.session(), np.zeros((1, network.height, network.width, 3), network.dtype)
    allowed, seen = os.sched_getaffinity(0), []
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        thread = executor.submit(threading.get_native_id).result()
        busy = executor.submit(lambda: [infer(image) for _ in range(300)])
        while not busy.done():
            seen.append(os.sched_getaffinity(thread))
    assert len(seen) > 10
    assert all(cores == allowed for cores in seen)


def test_threads_that_load_a_model_at_once_do_not_lose_standard_error() -> None:
    """LiteRT writes a notice there, which is kept away by exchanging the file behind it for a moment."""
    program = """if True:
        import os, sys
        from concurrent.futures import ThreadPoolExecutor
        from pathlib import Path
        from model_server.runtimes.litert import load
        model = load(Path(sys.argv[1]), 1)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: model.session(), range(60)))
        os.write(2, b"a complaint")
    """
    command = [sys.executable, "-c", program, str(DEFAULT_BUNDLE / "model.tflite")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert finished.stderr == "a complaint"
