"""Benchmark of the feedback service: giving feedback, the report over many predictions, the memory of an export.

Service, PostgreSQL and load generator share all cores. Feedback is given with a token over keep-alive connections, each
on a prediction of its own. Figures are medians over rounds.

Example: python stress_test/bench_feedback.py --rounds 3 --plan plan.txt
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psutil
import psycopg
from sqlalchemy.engine import make_url

from bench_predictor import free_port, http_request, progress, started, wait_for
from load_generator import percentiles
from model_server.accounts import tokens
from model_server.store import report
from model_server.store.embedded import embedded_postgres
from model_server.store.migrate import migrate

SECRET = "a secret of at least thirty-two characters"
USER, ADMIN = UUID(int=1), UUID(int=2)
SAMPLE_SECONDS = 0.02
LIMITS = {"POST p50 ms": 10, "report ms": 1000}

USERS = """
    INSERT INTO users (id, name, email, email_key, password_hash, is_admin)
    VALUES (%s, 'u', 'u', 'u', '-', false), (%s, 'a', 'a', 'a', '-', true)
"""
LABELS = "INSERT INTO model_labels SELECT 'bench', v::text, %s FROM generate_series(1, 3) AS v"
PREDICTIONS = """
    INSERT INTO predictions (id, status, model, model_version, parameters, priority, created_at, deadline, started_at,
      finished_at, attempts, run, predictions, work, user_id)
    SELECT gen_random_uuid(), CASE WHEN n %% 50 = 0 THEN 'failed' ELSE 'succeeded' END, 'bench', (n %% 3 + 1)::text,
      '{}', 3, at, at + interval '1 h', at, at + interval '40 ms', 1, 1, jsonb_build_array(jsonb_build_object(
        'label', 'class' || n %% 10, 'index', n %% 10, 'score', 0.5, 'top', (
          SELECT jsonb_agg(jsonb_build_object('label', 'class' || (n + k) %% 10, 'index', k, 'score', 0.5 / k))
          FROM generate_series(1, 5) AS k))), sha256(n::text::bytea), %s
    FROM (SELECT n, now() - n * interval '2 s' AS at FROM generate_series(1, %s) AS n) AS numbers
"""
FEEDBACKS = """
    INSERT INTO feedback (id, author, is_private, prediction_id, model, model_version, predicted_class, score,
      correct_class, is_right, comment, image_file_name, predicted_at)
    SELECT gen_random_uuid(), md5((n %% 500 + judge)::text)::uuid, true, id, model, model_version, said, random(),
      meant, said = meant, '', n || '.png', finished_at
    FROM (
      SELECT *, 'class' || n %% 10 AS said,
        'class' || CASE WHEN (n + judge) %% 4 = 0 THEN n / 10 %% 10 ELSE n %% 10 END AS meant
      FROM (
        SELECT *, row_number() OVER (ORDER BY id) AS n FROM predictions WHERE status = 'succeeded' ORDER BY id LIMIT %s
      ) AS judged, generate_series(0, CASE WHEN n %% 20 = 0 THEN 1 ELSE 0 END) AS judge
    ) AS words
"""
PICTURES = """
    WITH pictures AS (
      INSERT INTO images (sha256, media_type, content)
      SELECT sha256((%(model)s || n)::bytea), 'image/jpeg', string_agg(sha256((n * 10000 + k)::text::bytea), '')
      FROM generate_series(1, %(images)s) AS n, generate_series(1, %(bytes)s / 32) AS k GROUP BY n RETURNING sha256
    )
    INSERT INTO feedback (id, author, is_private, prediction_id, model, model_version, predicted_class, score,
      correct_class, is_right, comment, image_file_name, image_sha256, predicted_at)
    SELECT gen_random_uuid(), gen_random_uuid(), true, gen_random_uuid(), %(model)s, '1', 'class1', 0.5, 'class2',
      false, '', '', sha256, now()
    FROM pictures
"""


@dataclass(frozen=True)
class Service:
    """A running feedback service."""

    url: str
    pid: int

    def get(self, path: str) -> urllib.request.Request:
        headers = {"Authorization": f"Bearer {tokens.issue(SECRET.encode(), ADMIN, 3600)}"}
        return urllib.request.Request(self.url + path, headers=headers)


@contextlib.contextmanager
def service(database: str) -> Iterator[Service]:
    port = free_port()
    given = {"database_url": database, "feedback_port": port, "token_secret": SECRET, "log_level": "warning"}
    environment = {**os.environ, **{f"MODEL_SERVER_{name.upper()}": str(value) for name, value in given.items()}}
    with started([sys.executable, "-m", "model_server", "feedback"], environment) as process:
        wait_for(f"http://127.0.0.1:{port}/readyz", process)
        yield Service(f"http://127.0.0.1:{port}", process.pid)


class Giver:
    """Gives feedback on each of ``predictions`` once, over keep-alive connections."""

    def __init__(self, port: int, predictions: list[UUID]) -> None:
        self._port = port
        self._predictions = predictions
        self._token = tokens.issue(SECRET.encode(), USER, 3600)
        self.latencies: list[float] = []

    async def run(self, connections: int) -> None:
        await asyncio.gather(*(self._connection() for _ in range(connections)))

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while self._predictions:
            body = b'{"prediction_id": "%s", "correct_class": "class1", "feedback": "It is one."}'
            body %= str(self._predictions.pop()).encode()
            request = http_request("/feedback/", "application/json", body, f"Authorization: Bearer {self._token}\r\n")
            begun = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            reply = await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
            self.latencies.append(time.perf_counter() - begun)
            if not head.startswith(b"http/1.1 201"):
                raise RuntimeError(reply.decode())
        writer.close()


class PeakMemory:
    """The largest resident size of a process, MiB, while the block runs, and the size at its beginning."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.before = self.peak = self._now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self._now())

    def _now(self) -> float:
        return float(self._process.memory_info().rss) / (1 << 20)


def seed(database: str, given: argparse.Namespace) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(USERS, (USER, ADMIN))
        connection.execute(LABELS, ([f"class{number}" for number in range(10)],))
        connection.execute(PREDICTIONS, (USER, given.predictions))
        connection.execute(FEEDBACKS, (given.feedbacks * 20 // 21,))
        connection.execute("VACUUM ANALYZE")


def measure_posts(running: Service, database: str, count: int, connections: int) -> dict[str, float]:
    query = """
        SELECT id FROM predictions AS p WHERE status = 'succeeded' AND NOT EXISTS (
          SELECT FROM feedback AS f WHERE f.prediction_id = p.id) LIMIT %s
    """
    with psycopg.connect(database) as connection:
        predictions = [row[0] for row in connection.execute(query, (count,))]
    giver = Giver(int(running.url.rpartition(":")[2]), predictions)
    begun = time.perf_counter()
    asyncio.run(giver.run(connections))
    seconds = time.perf_counter() - begun
    found = percentiles(giver.latencies)
    return {
        "POST p50 ms": found["p50"],
        "POST p99 ms": found["p99"],
        "POSTs a second": len(giver.latencies) / seconds,
    }


def measure_report(running: Service) -> dict[str, float]:
    begun = time.perf_counter()
    urllib.request.urlopen(running.get("/feedback/report?model=bench"), timeout=60).read()
    return {"report ms": (time.perf_counter() - begun) * 1000}


def measure_export(running: Service, database: str, model: str, images: int, size: int) -> str:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(PICTURES, {"images": images, "bytes": size, "model": model})
    received, begun = 0, time.perf_counter()
    with PeakMemory(running.pid) as memory:
        reply = urllib.request.urlopen(running.get(f"/feedback/export?model={model}"), timeout=600)
        while part := reply.read(1 << 16):
            received += len(part)
    seconds = time.perf_counter() - begun
    if received < images * size:
        raise RuntimeError(f"the export has {received} bytes")
    return (
        f"| {images:,} | {received / 1e6:,.0f} | {seconds:.1f} | {received / 1e6 / seconds:.0f} "
        f"| {memory.before:.0f} | {memory.peak:.0f} |"
    )


def explain(database: str) -> str:
    """Return the plans of the report's queries, as they ran."""
    with psycopg.connect(database) as connection:
        connection.execute(f"SET work_mem = '{report.WORK_MEMORY}'".encode())
        return "\n\n".join(
            f"{name}\n" + "\n".join(row[0] for row in connection.execute(f"EXPLAIN (ANALYZE, BUFFERS) {statement}"))
            for name, statement in report.statements(report.Scope(model="bench"))
        )


def run(given: argparse.Namespace, database: str) -> None:
    progress("Writing predictions and feedback …")
    seed(database, given)
    rows: dict[str, list[float]] = {}
    with service(database) as running:
        for number in range(given.rounds):
            progress(f"Round {number + 1} of {given.rounds} …")
            for name, value in {
                **measure_report(running),
                **measure_posts(running, database, given.posts, given.connections),
            }.items():
                rows.setdefault(name, []).append(value)
    # Before the export, whose images would put everything else out of memory.
    if given.plan:
        given.plan.write_text(explain(database), encoding="utf-8")
    print(f"{given.predictions:,} predictions, {given.feedbacks:,} feedbacks, {given.connections} connections\n")
    print("| figure | median | limit |\n|---|---|---|")
    for name, values in rows.items():
        print(f"| {name} | {statistics.median(values):.1f} | {LIMITS.get(name, '')} |")
    print(f"\n| exported images of {given.image_bytes:,} bytes | MB | s | MB/s | RSS before, MiB | at most |")
    print("|---|---|---|---|---|---|")
    for images in (given.images // 10, given.images):
        progress(f"Exporting {images:,} images …")
        with service(database) as running:
            print(measure_export(running, database, f"pictures-{images}", images, given.image_bytes))
    progress("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--predictions", type=int, default=1_000_000)
    parser.add_argument("--feedbacks", type=int, default=100_000)
    parser.add_argument("--posts", type=int, default=3000, help="in each round")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--images", type=int, default=10_000, help="in the larger of two exports")
    parser.add_argument("--image-bytes", type=int, default=51_200)
    parser.add_argument("--plan", type=Path, help="file for the query plans of the report")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as workspace:
        Path(workspace).chmod(0o755)
        with embedded_postgres(Path(workspace) / "postgres") as url:
            migrate(make_url(url).set(drivername="postgresql+psycopg"))
            run(given, url)


if __name__ == "__main__":
    main()
