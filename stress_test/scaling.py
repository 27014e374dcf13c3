"""Measures the whole system over users, predictor processes, runtimes and paths; one line of JSON a cell.

Requests go through the queue-proxy, and each picture differs. Cells that the results have already are left out, so that
a run may be cut short and taken up again; --minutes ends one in time. The predictor and everything else share all cores
with the load generator. `scaling_report.py` makes tables and plots of the results.

Example: python stress_test/scaling.py --model-dir mobilenet --image cat.jpg --results stress_test/results/scaling.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench_predictor import http_request
from generated_load import generate
from local_system import LocalSystem, first_model, local_system
from processes import progress

RUNTIMES = ("litert", "openvino", "tensorflow")
PROCESSES = (1, 2)
USERS = (1, 8, 32, 128)
PREFER = {"direct": "", "sync": "", "async": "Prefer: respond-async, wait=50\r\n"}
DIRECT = "direct"
"""Past the queue-proxy."""
OPEN_LOOP_SHARES = (0.2, 0.35, 0.5, 0.6, 0.7, 0.78, 0.85)
"""Of the rate that the closed loop of 32 users reached."""
OPEN_LOOP_SECONDS = 4
"""Times as long as a closed cell: a p95 near saturation moves slowly."""
SERIAL_BYTES = 12
SETTINGS = {"cache_seconds": 0, "sync_in_flight": 64, "sync_waiting": 512, "queue_size": 1024}


@dataclass(frozen=True, order=True)
class Server:
    """A predictor's configuration; batches are made by threads of TensorFlow alone."""

    runtime: str
    processes: int
    kind: str = "process"
    max_batch: int = 1

    def settings(self) -> dict[str, object]:
        return {
            "runtime": self.runtime,
            "workers": self.processes,
            "worker_kind": self.kind,
            "max_batch": self.max_batch,
        }


@dataclass(frozen=True)
class Cell:
    """One load: a closed loop of ``users``, or an open one at a ``share`` of the rate that 32 users reach."""

    server: Server
    path: str
    users: int = 0
    share: float = 0.0

    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def __str__(self) -> str:
        load = f"{self.users} users" if self.users else f"{self.share:.0%} of the most"
        return f"{self.server.runtime}, {self.server.processes} x {self.server.kind}, {self.path}, {load}"


def matrix() -> Iterator[Cell]:
    """Return every cell of the report, those of one server together."""
    for server in [
        *(Server(runtime, processes) for runtime, processes in itertools.product(RUNTIMES, PROCESSES)),
        Server("tensorflow", 1, "thread", 1),
        Server("tensorflow", 1, "thread", 8),
    ]:
        paths = ("sync", "async") if server.kind == "process" else ("sync",)
        yield from (Cell(server, path, users) for path, users in itertools.product(paths, USERS))
        if server.runtime == "litert":
            yield from (Cell(server, DIRECT, users) for users in (1, 32))
            yield from (
                Cell(server, path, share=share) for path, share in itertools.product((DIRECT, "sync"), OPEN_LOOP_SHARES)
            )


@dataclass
class Bench:
    """What is sent, for how long, and what was found so far."""

    image: bytes
    seconds: float
    known: dict[str, dict[str, float]]

    def measure(self, system: LocalSystem, cell: Cell) -> dict[str, float]:
        """Return the figures of one cell, the predictor's memory in MiB among them."""
        path = f"/v1/models/{first_model(system.url)}:predict"
        request = http_request(path, "image/jpeg", self.image + b"\0" * SERIAL_BYTES, PREFER[cell.path])
        options, seconds = ["--serial-bytes", str(SERIAL_BYTES)], self.seconds
        if cell.share:
            most = self.known[Cell(cell.server, cell.path, 32).key()]["rate"]
            options += ["--rate", str(cell.share * most)]
            seconds *= OPEN_LOOP_SECONDS
        else:
            options += ["--connections", str(cell.users)]
        url = system.predictor_url if cell.path == DIRECT else system.url
        found = generate([url], request, seconds, system.cpu_seconds, *options)
        memory = sum(process.memory_full_info().pss for process in system.processes()["predictor"])
        return found | {"predictor_mib": memory / 2**20}


def read(file: Path) -> dict[str, dict[str, float]]:
    """Return the results by the key of their cell."""
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {json.dumps(row["cell"], sort_keys=True): row["measured"] for row in rows}


def run(given: argparse.Namespace) -> int:
    bench = Bench(given.image.read_bytes(), given.seconds, read(given.results))
    missing = [cell for cell in matrix() if cell.key() not in bench.known]
    wanted = missing[: given.most]
    given.results.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + given.minutes * 60
    done = 0
    for server, cells in itertools.groupby(wanted, lambda cell: cell.server):
        if time.monotonic() > deadline:
            break
        with local_system(model_dir=given.model_dir.resolve(), **server.settings(), **SETTINGS) as system:
            for cell in itertools.takewhile(lambda _: time.monotonic() < deadline, cells):
                progress(f"{done + 1} of {len(wanted)}: {cell}")
                bench.known[cell.key()] = measured = bench.measure(system, cell)
                with given.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"cell": asdict(cell), "measured": measured}) + "\n")
                done += 1
    progress("")
    print(f"{done} cells measured, {len(missing) - done} are missing.")
    return 0 if done == len(missing) else 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True, help="bundle with a model.tflite and a model.keras")
    parser.add_argument("--image", type=Path, required=True, help="a JPEG of about 50 KB")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--seconds", type=float, default=5, help="of each closed cell, after the warm-up")
    parser.add_argument("--minutes", type=float, default=600, help="no cell is begun after this")
    parser.add_argument("--most", type=int, help="measure no more cells than these")
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
