"""Benchmark of the predictor: what a request costs beyond decoding and inference.

The limit is a plain loop over decode + resize + inference with the same runtime: on one core, and on all of them,
where each image costs more because the cores share caches and clock. Costs are CPU time of the server
process, so that neither noise nor the load generator on the same machine counts. Every figure is the median of
several rounds, and rounds of all variants alternate.

Example: python stress_test/bench_predictor.py --model-dir ../shared/data/imagenet --image cat.jpg --rounds 5
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from generated_load import generate
from model_server import classifier, image
from processes import free_port, progress, started, tree_cpu_seconds, wait_for, with_children

HERE = Path(__file__).parent
LIMITS = image.Limits(2**24, 2**26)
LOOP_IMAGES = 400


@contextlib.contextmanager
def ours(model_dir: Path, workers: int | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    environment = os.environ | {
        "MODEL_SERVER_MODEL_DIR": str(model_dir),
        "MODEL_SERVER_MODEL_NAME": "bench",
        "MODEL_SERVER_PREDICTOR_HOST": "127.0.0.1",
        "MODEL_SERVER_PREDICTOR_PORT": str(port),
        "MODEL_SERVER_PREDICTOR_GRPC_PORT": "0",
    }
    if workers:
        environment["MODEL_SERVER_WORKERS"] = str(workers)
    with started([sys.executable, "-m", "model_server", "predictor"], environment) as process:
        wait_for(f"http://127.0.0.1:{port}/v2/models/bench/ready", process)
        yield f"http://127.0.0.1:{port}", process


@contextlib.contextmanager
def peer(model_dir: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [
        sys.executable,
        str(HERE / "peer_kserve.py"),
        "--http_port",
        str(port),
        "--model_dir",
        str(model_dir),
    ]
    with started(command, dict(os.environ)) as process:
        wait_for(f"http://127.0.0.1:{port}/v2/models/peer/ready", process)
        yield f"http://127.0.0.1:{port}", process


def plain_loop(loaded: classifier.Classifier, data: bytes, threads: int) -> dict[str, float]:
    """Return images/s and CPU-ms an image of ``threads`` loops over decode, resize and infer: the limit."""
    sessions = [loaded.session() for _ in range(threads)]

    def work(infer: Callable[..., object]) -> None:
        for _ in range(LOOP_IMAGES):
            infer(loaded.prepare(data)[None])

    work(sessions[0])
    workers = [threading.Thread(target=work, args=(session,)) for session in sessions]
    begun, cpu = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    images = threads * LOOP_IMAGES
    return {
        "rate": images / (time.perf_counter() - begun),
        "cpu_ms": (time.process_time() - cpu) / images * 1000,
    }


def http_request(path: str, content_type: str, body: bytes, extra: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
    head += f"{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def requests_of(data: bytes, model: str) -> dict[str, bytes]:
    text = json.dumps({"instances": [{"b64": base64.b64encode(data).decode()}]}).encode()
    element = len(data).to_bytes(4, "little") + data
    tensor = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(element)},
    }
    document = json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}, {"name": "score"}]}).encode()
    length = f"Inference-Header-Content-Length: {len(document)}\r\n"
    return {
        "V1 raw JPEG": http_request(f"/v1/models/{model}:predict", "image/jpeg", data),
        "V1 base64 JSON": http_request(f"/v1/models/{model}:predict", "application/json", text),
        "V2 binary": http_request(f"/v2/models/{model}/infer", "application/octet-stream", document + element, length),
    }


def measure(
    urls: list[str],
    processes: list[subprocess.Popen[bytes]],
    request: bytes,
    connections: int,
    seconds: float,
) -> dict[str, float]:
    def spent() -> float:
        return tree_cpu_seconds(process.pid for process in processes)

    return generate(urls, request, seconds, spent, "--connections", str(connections))


def cold_start_seconds(model_dir: Path, data: bytes) -> float:
    """Return exec → first 200 of a prediction."""
    port = free_port()
    environment = os.environ | {
        "MODEL_SERVER_MODEL_DIR": str(model_dir),
        "MODEL_SERVER_MODEL_NAME": "bench",
        "MODEL_SERVER_PREDICTOR_PORT": str(port),
        "MODEL_SERVER_PREDICTOR_GRPC_PORT": str(free_port()),
    }
    url = f"http://127.0.0.1:{port}/v1/models/bench:predict"
    begun = time.perf_counter()
    with started([sys.executable, "-m", "model_server", "predictor"], environment):
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                call = urllib.request.Request(url, data, {"Content-Type": "image/jpeg"})
                urllib.request.urlopen(call, timeout=10).read()
                return time.perf_counter() - begun
            time.sleep(0.005)


def import_seconds() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import kserve"], check=True, capture_output=True)
    return time.perf_counter() - begun


def rss_mib_after(requests: int, model_dir: Path, data: bytes) -> float:
    with ours(model_dir) as (url, process):
        call = urllib.request.Request(f"{url}/v1/models/bench:predict", data, {"Content-Type": "image/jpeg"})
        for _ in range(requests):
            urllib.request.urlopen(call).read()
        return float(sum(part.memory_info().rss for part in with_children(process.pid))) / 2**20


def plain_model(source: Path, workspace: Path) -> Path:
    """Return a folder that can be served: ``source`` itself, or a copy of the ImageNet model and labels in it."""
    artifact, labels = source / "tf2_mobilenet_v2_1.0_224_ptq.tflite", source / "imagenet_labels_1001.txt"
    if not artifact.exists():
        return source
    folder = workspace / "mobilenet"
    folder.mkdir()
    shutil.copy(artifact, folder / "model.tflite")
    shutil.copy(labels, folder / "labels.txt")
    return folder


def median(rows: list[dict[str, float]], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=classifier.DEFAULT_MODEL)
    parser.add_argument("--image", type=Path, required=True, help="a JPEG of about 50 KB")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as workspace:
        run(given, plain_model(given.model_dir, Path(workspace)), given.image.read_bytes())


def run(given: argparse.Namespace, model_dir: Path, data: bytes) -> None:
    cores = len(os.sched_getaffinity(0))
    loaded = classifier.load(model_dir, "auto", 1, LIMITS)
    alone: list[dict[str, float]] = []
    all_cores: list[dict[str, float]] = []
    rows: dict[str, list[dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(ours(model_dir))
        split = [stack.enter_context(ours(model_dir, workers=1)) for _ in range(cores)]
        stock = stack.enter_context(peer(model_dir))
        ours_requests, peer_requests = requests_of(data, "bench"), requests_of(data, "peer")
        variants = {name: ([one], request) for name, request in ours_requests.items()}
        variants[f"V1 raw JPEG, {cores} servers of 1 worker"] = (split, ours_requests["V1 raw JPEG"])
        variants["V1 base64 JSON, plain SDK predictor"] = ([stock], peer_requests["V1 base64 JSON"])
        for number in range(given.rounds):
            progress(f"round {number + 1} of {given.rounds}: plain loop")
            alone.append(plain_loop(loaded, data, 1))
            all_cores.append(plain_loop(loaded, data, cores))
            for name, (servers, request) in variants.items():
                progress(f"round {number + 1} of {given.rounds}: {name}")
                urls, processes = [url for url, _ in servers], [process for _, process in servers]
                rows.setdefault(name, []).append(measure(urls, processes, request, given.connections, given.seconds))
    progress("cold start and memory")
    imports = statistics.median(import_seconds() for _ in range(given.rounds))
    starts = statistics.median(cold_start_seconds(model_dir, data) for _ in range(given.rounds))
    rss = rss_mib_after(1000, model_dir, data)
    progress("")
    limit, busy, best = median(alone, "cpu_ms"), median(all_cores, "cpu_ms"), median(all_cores, "rate")
    print(f"{cores} cores, {given.connections} connections, {len(data)} byte image, medians of {given.rounds} rounds\n")
    print(f"Plain loop, one thread: {limit:.2f} CPU-ms an image; {cores} threads: {busy:.2f}, {best:.0f} images/s\n")
    print(f"| request | CPU-ms | x one | x {cores} threads | requests/s | of best | p50 ms | p99 ms | health p99 ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        cpu, rate = median(row, "cpu_ms"), median(row, "rate")
        print(
            f"| {name} | {cpu:.2f} | {cpu / limit:.2f} | {cpu / busy:.2f} | {rate:.0f} | {rate / best:.0%} "
            f"| {median(row, 'p50'):.1f} | {median(row, 'p99'):.1f} | {median(row, 'health_p99'):.1f} |"
        )
    print(f"\nCold start (exec to first 200): {starts:.2f} s; bare import kserve: {imports:.2f} s")
    print(f"RSS after 1,000 requests: {rss:.0f} MiB")


if __name__ == "__main__":
    main()
