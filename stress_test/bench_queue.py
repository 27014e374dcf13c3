"""Benchmark of the queue-proxy: what submitting, dispatching and passing through cost, and whether memory stays flat.

Draining and passing through, the predictor has one core, everything else another: queue-proxy, PostgreSQL and load
generator. Submitting, and one request at a time, they share all cores. Costs are CPU time of processes. Every image
differs, so that nothing is answered from a cache. Figures are medians over rounds; what is compared is measured in the
same run.

Example: python stress_test/bench_queue.py --model-dir ../shared/data/imagenet --image cat.jpg --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import uvloop
from sqlalchemy.engine import make_url

from bench_predictor import http_request, measure, ours, plain_model
from generated_load import WARM_UP_SECONDS
from load_generator import percentiles
from model_server import classifier
from model_server.store.embedded import embedded_postgres
from model_server.store.migrate import migrate
from processes import cpu_seconds, free_port, progress, started, wait_for

PREDICTOR_CORE, OTHER_CORE = 0, 1
MODEL = "bench"
PREDICT = f"/v1/models/{MODEL}:predict"
ASYNC = "Prefer: respond-async\r\n"
WAITING = "Prefer: respond-async, wait=30\r\n"
SECONDS = 4
MEMORY_POINTS = 10
SERIAL_BYTES = 12
"""At the end of each body, after the JPEG's own end: makes every image another."""
LIMITS = {
    "submit p50 ms": 8,
    "submit p99 ms": 40,
    "drain, share of sync": 0.9,
    "CPU-ms a job": 5,
    "pass-through CPU-ms": 1.5,
    "idle, ms above sync": 25,
}


@dataclass
class Figures:
    """What the rounds gave, by name."""

    rows: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.rows.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.rows[name])


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Let what is started inside run on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def proxy(database: str, predictor: str, *arguments: str, **settings: object) -> Iterator[tuple[str, int]]:
    """Start a queue-proxy; yields its URL and process id."""
    port = free_port()
    given = {"database_url": database, "predictor_url": predictor, "queue_proxy_host": "127.0.0.1", **settings}
    environment = {**os.environ, "MODEL_SERVER_QUEUE_PROXY_PORT": str(port), "MODEL_SERVER_LOG_LEVEL": "warning"}
    environment |= {f"MODEL_SERVER_{name.upper()}": str(value) for name, value in given.items()}
    with started([sys.executable, "-m", "model_server", "queue-proxy", *arguments], environment) as process:
        wait_for(f"http://127.0.0.1:{port}/readyz", process)
        yield f"http://127.0.0.1:{port}", process.pid


class Submitter:
    """Sends ``jobs`` requests over keep-alive connections, each body with a serial number of its own."""

    def __init__(self, url: str, data: bytes, extra: str) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)
        padded = data + b"\0" * SERIAL_BYTES
        self._request = http_request(PREDICT, "image/jpeg", padded, extra)[:-SERIAL_BYTES]
        self._left = 0
        self._latencies: list[float] = []

    async def run(self, jobs: int, connections: int) -> list[float]:
        """Return the latencies in seconds."""
        self._left, self._latencies = jobs, []
        await asyncio.gather(*(self._connection() for _ in range(connections)))
        return self._latencies

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        while self._left > 0:
            self._left -= 1
            begun = time.perf_counter()
            writer.write(self._request + os.urandom(SERIAL_BYTES))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
            self._latencies.append(time.perf_counter() - begun)
            if not head.startswith((b"http/1.1 200", b"http/1.1 202")):
                raise RuntimeError(head.decode())
        writer.close()


def submit(url: str, data: bytes, jobs: int, connections: int, extra: str = ASYNC) -> list[float]:
    return uvloop.run(Submitter(url, data, extra).run(jobs, connections))


def postgres_server(database: str) -> psutil.Process:
    with psycopg.connect(database) as connection:
        server = psutil.Process(connection.info.backend_pid).parent()
    if server is None:
        raise RuntimeError("PostgreSQL has no server process")
    return server


def let_postgres_run_on(database: str, cores: set[int]) -> None:
    server = postgres_server(database)
    for process in (server, *server.children()):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.cpu_affinity(sorted(cores))


def postgres_cpu_seconds(database: str) -> float:
    """Return CPU time of the server with all its processes, those that have ended too."""
    server = postgres_server(database)
    times = server.cpu_times()
    total = cpu_seconds(server.pid) + float(times.children_user + times.children_system)
    for child in server.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended in between, its time is next to nothing
            total += cpu_seconds(child.pid)
    return total


def query(database: str, statement: str) -> tuple[object, ...]:
    with psycopg.connect(database, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
    return row or ()


def wait_until_drained(database: str, jobs: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while query(database, "SELECT count(*) FROM predictions WHERE status = 'succeeded'") != (jobs,):
        if time.monotonic() > deadline:
            states = query(database, "SELECT json_object_agg(status, n) FROM (SELECT status, count(*) AS n"
                                     " FROM predictions GROUP BY status) AS s")  # fmt: skip
            raise RuntimeError(f"not drained within {seconds} s: {states}")
        time.sleep(0.25)


def clear(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("TRUNCATE predictions, images, feedback, callbacks, pgqueuer, pgqueuer_log")
        connection.execute("CHECKPOINT")


def measure_jobs(figures: Figures, database: str, predictor: str, data: bytes, jobs: int) -> None:
    """Submit a backlog, then drain it: latency, rate, and the CPU time of a job's whole life."""
    clear(database)
    before = postgres_cpu_seconds(database)
    with proxy(database, predictor, "--no-dispatch") as (url, pid):
        submit(url, data, jobs, 8)  # and PostgreSQL has the files for its log, which it makes once and then reuses
        clear(database)
        before, proxy_before = postgres_cpu_seconds(database), cpu_seconds(pid)
        latency = percentiles(submit(url, data, jobs, 8))
        submit_cpu = cpu_seconds(pid) - proxy_before
    figures.add("submit p50 ms", latency["p50"])
    figures.add("submit p99 ms", latency["p99"])
    let_postgres_run_on(database, {OTHER_CORE})
    with on_core(OTHER_CORE), proxy(database, predictor, "--dispatch-only") as (_, pid):
        wait_until_drained(database, jobs, 300)
        # Its start costs CPU time that no job does.
        dispatch_cpu = cpu_seconds(pid) - START_CPU[0]
        total = submit_cpu + dispatch_cpu + postgres_cpu_seconds(database) - before
    figures.add("CPU-ms a job", total / jobs * 1000)
    figures.add("CPU-ms submit, queue-proxy", submit_cpu / jobs * 1000)
    figures.add("CPU-ms dispatch, queue-proxy", dispatch_cpu / jobs * 1000)
    let_postgres_run_on(database, os.sched_getaffinity(0))
    (seconds,) = query(
        database, "SELECT extract(epoch FROM max(finished_at) - min(started_at))::float FROM predictions"
    )
    figures.add("drain jobs/s", jobs / float(str(seconds)))


START_CPU = [0.0]


def start_cpu_seconds(database: str, predictor: str) -> float:
    """Return what a queue-proxy that finds nothing to do has spent once it is ready."""
    clear(database)
    with proxy(database, predictor, "--dispatch-only") as (_, pid):
        return cpu_seconds(pid)


def measure_sync(figures: Figures, database: str, direct: str, predictor: subprocess.Popen[bytes], data: bytes) -> None:
    """Compare the predictor's own rate and CPU time with those through the queue-proxy."""
    request = http_request(PREDICT, "image/jpeg", data)
    with on_core(OTHER_CORE):
        alone = measure([direct], [predictor], request, 32, SECONDS)
    figures.add("sync images/s, direct", alone["rate"])
    with on_core(OTHER_CORE), proxy(database, direct, "--no-dispatch", cache_seconds=0) as (url, pid):
        before = cpu_seconds(pid)
        through = measure([url], [predictor], request, 32, SECONDS)
        spent = cpu_seconds(pid) - before
    # Of the time in which the queue-proxy worked, measure() counts the part after the warm-up alone.
    passed = through["rate"] * (SECONDS + WARM_UP_SECONDS)
    figures.add("pass-through images/s", through["rate"])
    figures.add("pass-through CPU-ms, queue-proxy", spent / passed * 1000)
    figures.add("pass-through CPU-ms", spent / passed * 1000 + through["cpu_ms"] - alone["cpu_ms"])


def measure_idle(figures: Figures, database: str, direct: str, data: bytes) -> None:
    """Compare one request at a time: direct, and submitted and awaited."""
    clear(database)
    alone = percentiles(submit(direct, data, 60, 1, ""))
    with proxy(database, direct) as (url, _):
        submit(url, data, 20, 1, WAITING)
        queued = percentiles(submit(url, data, 60, 1, WAITING))
    figures.add("idle, sync p50 ms", alone["p50"])
    figures.add("idle, ms above sync", queued["p50"] - alone["p50"])


def measure_memory(database: str, direct: str, data: bytes, jobs: int) -> list[float]:
    """Return RSS of the queue-proxy in MiB before the first job and after each tenth of them."""
    clear(database)
    with proxy(database, direct) as (url, pid):
        process = psutil.Process(pid)
        points = [process.memory_info().rss / 2**20]
        for number in range(1, MEMORY_POINTS + 1):
            progress(f"memory: {number} of {MEMORY_POINTS}")
            submit(url, data, jobs // MEMORY_POINTS, 8)
            wait_until_drained(database, number * (jobs // MEMORY_POINTS), 300)
            points.append(process.memory_info().rss / 2**20)
        return points


def run(given: argparse.Namespace, model_dir: Path, data: bytes, folder: Path) -> None:
    figures = Figures()
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(embedded_postgres(folder / "postgres"))
        migrate(make_url(database).set(drivername="postgresql+psycopg"))
        with on_core(PREDICTOR_CORE):
            direct, predictor = stack.enter_context(ours(model_dir, workers=1))
        urllib.request.urlopen(urllib.request.Request(direct + PREDICT, data, {"Content-Type": "image/jpeg"})).read()
        START_CPU[0] = start_cpu_seconds(database, direct)
        for number in range(given.rounds):
            progress(f"round {number + 1} of {given.rounds}")
            measure_sync(figures, database, direct, predictor, data)
            measure_jobs(figures, database, direct, data, given.jobs)
            measure_idle(figures, database, direct, data)
            figures.add(
                "drain, share of sync", figures.rows["drain jobs/s"][-1] / figures.rows["sync images/s, direct"][-1]
            )
        progress("memory")
        memory = measure_memory(database, direct, data, given.memory_jobs) if given.memory_jobs else None
    progress("")
    report(figures, given, len(data), memory)


def report(figures: Figures, given: argparse.Namespace, size: int, memory: list[float] | None) -> None:
    if figures.rows:
        print(f"{size} byte image, {given.jobs} jobs, medians of {given.rounds} rounds\n")
        print("| figure | median | limit |\n|---|---|---|")
    for name in figures.rows:
        print(f"| {name} | {figures.median(name):.2f} | {LIMITS.get(name, '')} |")
    if memory:
        points = ", ".join(f"{point:.0f}" for point in memory)
        print(f"\nRSS in MiB at the start and after each {given.memory_jobs // MEMORY_POINTS} jobs: {points}")
    print(json.dumps(figures.rows), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=classifier.DEFAULT_MODEL)
    parser.add_argument("--image", type=Path, required=True, help="a JPEG of about 50 KB")
    parser.add_argument("--rounds", type=int, default=3, help="0: the memory alone")
    parser.add_argument("--jobs", type=int, default=2000, help="of the backlog that is drained")
    parser.add_argument("--memory-jobs", type=int, default=20_000, help="0: leave the memory out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as workspace:
        Path(workspace).chmod(0o755)
        run(given, plain_model(given.model_dir, Path(workspace)), given.image.read_bytes(), Path(workspace))


if __name__ == "__main__":
    main()
