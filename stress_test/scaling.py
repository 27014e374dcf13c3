"""Measures the whole system over users, workers of the predictor, runtimes and paths; one line of JSON a cell.

Requests go through the queue-proxy, and each picture differs. Cells that the results have already are left out, so that
a run may be cut short and taken up again; --minutes ends one in time. The predictor and everything else share all cores
with the load generator. Takes about 20 minutes; --report then makes tables and plots of the results, as
`scaling_report.py` does by itself.

Example: python stress_test/scaling.py --model-dir mobilenet --image cat.jpg --results stress-results/scaling.jsonl \\
  --report stress-results/REPORT.md
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import report_file
from bench_predictor import http_request
from generated_load import generate
from local_system import LocalSystem, first_model, local_system
from processes import progress

RUNTIMES = ("litert", "openvino", "tensorflow")
WORKERS = (1, 2)
USERS = (1, 8, 32, 128)
PREFER = {"direct": "", "sync": "", "async": "Prefer: respond-async, wait=50\r\n"}
DIRECT = "direct"
"""Past the queue-proxy."""
LIGHT = 0.1
SHARES = (1.0, LIGHT, 0.3, 0.45, 0.6, 0.75)
"""Of the most requests/s that a closed loop reached. 1: that loop once more, in the same rounds as the others."""
ROUNDS = 5
"""Each takes its turn so often, and its median counts: the speed of a virtual machine drifts within minutes."""
WARM_UP_SECONDS = 1.0
OTHERS_CORES, ATTEMPTS = 0.2, 3
"""Where other processes of the machine took more cores, a round is measured again."""
SERIAL_BYTES = 12
SETTINGS = {"cache_seconds": 0, "sync_in_flight": 64, "sync_waiting": 512, "queue_size": 1024}


@dataclass(frozen=True, order=True)
class Server:
    """A predictor's configuration; batches are made for TensorFlow alone."""

    runtime: str
    workers: int
    max_batch: int = 8

    def settings(self) -> dict[str, object]:
        return {
            "runtime": self.runtime,
            "workers": self.workers,
            "max_batch": self.max_batch,
        }


SERVERS = tuple(itertools.starmap(Server, itertools.product(RUNTIMES, WORKERS)))
BATCHING = (Server("tensorflow", 2, 1), Server("tensorflow", 2))
"""One session for two processes that decode: a picture at a time, and what waits."""


@dataclass(frozen=True)
class Cell:
    """One load: a closed loop of ``users``, or an open one at a ``share`` of the most that one reached; see SHARES."""

    server: Server
    path: str
    users: int = 0
    share: float = 0.0

    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def __str__(self) -> str:
        load = f"{self.users} users" if self.users else f"{self.share:.0%} of the most"
        return f"{self.server.runtime}, {self.server.workers} workers, {self.path}, {load}"


def matrix() -> Iterator[Cell]:
    """Return every cell of the report, those of one server together."""
    for server in SERVERS:
        yield from (Cell(server, path, users) for path, users in itertools.product(("sync", "async"), USERS))
        if server.runtime == "litert":
            yield from (Cell(server, DIRECT, users) for users in (1, 8, 32))
            yield from (Cell(server, path, share=share) for path, share in itertools.product((DIRECT, "sync"), SHARES))
    unbatched = [server for server in BATCHING if server not in SERVERS]
    yield from (Cell(server, "sync", users) for server, users in itertools.product(unbatched, USERS))


@dataclass
class Bench:
    """What is sent, for how long, and what was found so far."""

    image: bytes
    seconds: float
    known: dict[str, dict[str, float]]

    def measure(self, system: LocalSystem, cells: Sequence[Cell]) -> list[dict[str, float]]:
        """Return the figures of each cell, the predictor's memory in MiB among them; of several in rounds, medians."""
        rounds = [
            [self._undisturbed(system, cell, number) for cell in cells] for number in range(ROUNDS if cells[1:] else 1)
        ]
        return [medians(found) for found in zip(*rounds, strict=True)]

    def _undisturbed(self, system: LocalSystem, cell: Cell, number: int) -> dict[str, float]:
        """Return the figures of the first round that was undisturbed, else of the least disturbed one."""
        found = []
        for _ in range(ATTEMPTS):
            found.append(self._measure(system, cell, number))
            if found[-1]["others_cores"] <= OTHERS_CORES:
                break
        return min(found, key=lambda figures: figures["others_cores"])

    def _measure(self, system: LocalSystem, cell: Cell, number: int) -> dict[str, float]:
        path = f"/v1/models/{first_model(system.url)}:predict"
        request = http_request(path, "image/jpeg", self.image + b"\0" * SERIAL_BYTES, PREFER[cell.path])
        options = ["--serial-bytes", str(SERIAL_BYTES), *self._load(cell, number)]
        url = system.predictor_url if cell.path == DIRECT else system.url
        found = generate([url], request, self.seconds, system.cpu_seconds, *options, warm_up=WARM_UP_SECONDS)
        memory = sum(process.memory_full_info().pss for process in system.processes()["predictor"])
        return found | {"predictor_mib": memory / 2**20}

    def _load(self, cell: Cell, number: int) -> list[str]:
        if not cell.share:
            return ["--connections", str(cell.users)]
        most = busiest(self.known, cell)
        if cell.share == 1:
            return ["--connections", str(most.users)]
        return ["--rate", str(cell.share * self.known[most.key()]["rate"]), "--seed", str(number)]


def busiest(results: Mapping[str, Mapping[str, float]], cell: Cell) -> Cell:
    """Return the closed loop of most requests/s on the same server and path; raises LookupError."""
    closed = [replace(cell, users=users, share=0.0) for users in USERS]
    found = [one for one in closed if one.key() in results]
    if not found:
        raise LookupError(f"no closed loop was measured before {cell}")
    return max(found, key=lambda one: results[one.key()]["rate"])


def in_rounds(cells: Iterable[Cell]) -> Iterator[list[Cell]]:
    """Yield closed loops one by one, and together the loads that are compared with one another."""
    for (_, shared), found in itertools.groupby(cells, lambda cell: (cell.path, cell.share > 0)):
        several = list(found)
        yield from [several] if shared else ([cell] for cell in several)


def medians(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over rounds."""
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def read(file: Path) -> dict[str, dict[str, float]]:
    """Return the results by the key of their cell."""
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {json.dumps(row["cell"], sort_keys=True): row["measured"] for row in rows if "cell" in row}


def run(given: argparse.Namespace) -> int:
    bench = Bench(given.image.read_bytes(), given.seconds, read(given.results))
    missing = [cell for cell in matrix() if cell.key() not in bench.known]
    wanted = [cell for cell in missing if given.runtime in {None, cell.server.runtime}][: given.most]
    given.results.parent.mkdir(parents=True, exist_ok=True)
    if not given.results.exists():
        given.results.write_text(json.dumps({"measured_on": report_file.machine()}) + "\n", encoding="utf-8")
    deadline = time.monotonic() + given.minutes * 60
    done = 0
    for server, cells in itertools.groupby(wanted, lambda cell: cell.server):
        if time.monotonic() > deadline:
            break
        with local_system(model_dir=given.model_dir.resolve(), **server.settings(), **SETTINGS) as system:
            for together in itertools.takewhile(lambda _: time.monotonic() < deadline, in_rounds(cells)):
                progress(f"{done + 1} of {len(wanted)}: {together[0]}")
                for cell, measured in zip(together, bench.measure(system, together), strict=True):
                    bench.known[cell.key()] = measured
                    with given.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"cell": asdict(cell), "measured": measured}) + "\n")
                done += len(together)
    progress("")
    print(f"{done} cells measured, {len(missing) - done} are missing.")
    if given.report:
        import scaling_report

        scaling_report.write(given.results, given.report)
    return 0 if done == len(missing) else 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True, help="bundle with a model.tflite and a model.keras")
    parser.add_argument("--image", type=Path, required=True, help="a JPEG of about 50 KB")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--report", type=Path, help="Markdown whose tables are to be replaced; plots go to --results")
    parser.add_argument("--runtime", choices=RUNTIMES, help="measure cells of this one alone")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each closed cell, after the warm-up")
    parser.add_argument("--minutes", type=float, default=600, help="no cell is begun after this")
    parser.add_argument("--most", type=int, help="measure no more cells than these")
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
