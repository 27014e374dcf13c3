"""Our server beside what others would write: the same photograph, network and request, alternating in one run.

Peers are files in `peers/`, each in a virtual environment of its own that is made below --venvs at the first run. While
one is measured the others are stopped (SIGSTOP). CPU time is that of all of a server's processes: for ours through the
queue-proxy PostgreSQL's too, for the one with Redis that of redis-server, which Debian's package of that name has.

Example: python stress_test/bench_peers.py --model-dir mobilenet --image cat.jpg --expect tabby --venvs /var/tmp/peers
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

import report_file
from bench_predictor import http_request
from generated_load import generate
from local_system import first_model, local_system
from processes import free_port, progress, started, tree_cpu_seconds, wait_for, with_children

HERE = Path(__file__).parent
CONNECTIONS = (1, 8, 32)
START_SECONDS = 120


@dataclass(frozen=True)
class Served:
    """One way to have a photograph classified; ``pids`` are the roots of its processes."""

    name: str
    url: str
    path: str
    cpu_seconds: Callable[[], float]
    pids: Callable[[], list[int]]
    extra: str = ""

    def request(self, body: bytes) -> bytes:
        return http_request(self.path, "application/json", body, self.extra)


@contextlib.contextmanager
def ours(model_dir: Path, runtime: str) -> Iterator[list[Served]]:
    # The photograph is the same each time: without this, most would be answered from memory.
    settings = {"model_dir": model_dir, "runtime": runtime, "cache_seconds": 0}
    with local_system(**settings) as system:
        path = f"/v1/models/{first_model(system.url)}:predict"

        def pids() -> list[int]:
            return [processes[0].pid for processes in system.processes().values()]

        def served(name: str, url: str, extra: str = "") -> Served:
            return Served(f"ours, {runtime}, {name}", url, path, system.cpu_seconds, pids, extra)

        found = [served("predictor", system.predictor_url)]
        if runtime == "litert":
            found += [
                served("through the queue-proxy", system.url),
                served("queued and waited for", system.url, "Prefer: respond-async, wait=50\r\n"),
            ]
        yield found


@contextlib.contextmanager
def kserve_keras(model_dir: Path, venvs: Path) -> Iterator[list[Served]]:
    file, port = HERE / "peers" / "kserve_keras.py", free_port()
    command = [python_of(venvs, file), str(file), "--http_port", str(port), "--model_dir", str(model_dir)]
    with started(command, dict(os.environ)) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/v2/models/peer/ready", process, START_SECONDS)
        yield [_peer("KServe custom model, Keras predict", url, "/v1/models/peer:predict", [process.pid])]


@contextlib.contextmanager
def fastapi_redis(model_dir: Path, venvs: Path, redis: str) -> Iterator[list[Served]]:
    file, port, redis_port = HERE / "peers" / "fastapi_redis.py", free_port(), free_port()
    python, environment = python_of(venvs, file), os.environ | {"REDIS_PORT": str(redis_port)}
    store = [redis, "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (
        started(store, dict(os.environ)) as one,
        started([python, str(file), "web", str(port)], environment) as two,
        started([python, str(file), "worker", str(model_dir)], environment) as three,
    ):
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/openapi.json", two, START_SECONDS)
        yield [_peer("FastAPI, Redis list, polling worker", url, "/predict", [one.pid, two.pid, three.pid])]


def _peer(name: str, url: str, path: str, pids: list[int]) -> Served:
    return Served(name, url, path, lambda: tree_cpu_seconds(pids), lambda: pids)


def python_of(venvs: Path, file: Path) -> str:
    """Return the interpreter of a peer's environment, made where it is missing of what the file says that it needs."""
    folder = venvs.resolve() / file.stem
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        progress(f"making {folder}")
        needs = re.search(r"^Needs: (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(HERE.parent / "constraints.txt")]
        subprocess.run([*pip, *(needs.group(1).split() if needs else [])], check=True)
        (folder / "made").touch()
    return str(python)


def ask(served: Served, body: bytes) -> str:
    """Return the class of the photograph."""
    headers = {"Content-Type": "application/json"} | dict(
        line.split(": ", 1) for line in served.extra.splitlines()
    )  # fmt: skip
    call = urllib.request.Request(served.url + served.path, body, headers)
    with urllib.request.urlopen(call, timeout=START_SECONDS) as reply:
        return str(json.load(reply)["predictions"][0]["label"])


@contextlib.contextmanager
def alone(chosen: Served, everybody: list[Served]) -> Iterator[None]:
    """Stop the processes of all others meanwhile."""
    mine = {part.pid for pid in chosen.pids() for part in with_children(pid)}
    others = {part.pid for other in everybody for pid in other.pids() for part in with_children(pid)} - mine
    _signal(others, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(others, signal.SIGCONT)


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).send_signal(number)


def run(given: argparse.Namespace) -> None:
    body = json.dumps({"instances": [{"b64": base64.b64encode(given.image.read_bytes()).decode()}]}).encode()
    rows: dict[tuple[str, int], list[dict[str, float]]] = {}
    model_dir = given.model_dir.resolve()
    with contextlib.ExitStack() as stack:
        everybody = [
            *stack.enter_context(ours(model_dir, "litert")),
            *stack.enter_context(ours(model_dir, "tensorflow")),
            *stack.enter_context(kserve_keras(model_dir, given.venvs)),
            *stack.enter_context(fastapi_redis(model_dir, given.venvs, given.redis)),
        ]
        for served in everybody:
            found = ask(served, body)
            if given.expect not in found:
                raise SystemExit(f"{served.name} says {found}, not {given.expect}")
        for number in range(given.rounds):
            for served in everybody:
                for connections in CONNECTIONS:
                    progress(f"round {number + 1} of {given.rounds}: {served.name}, {connections} connections")
                    options = ("--connections", str(connections))
                    with alone(served, everybody):
                        figures = generate(
                            [served.url], served.request(body), given.seconds, served.cpu_seconds, *options, warm_up=1
                        )
                    rows.setdefault((served.name, connections), []).append(figures)
    progress("")
    print(table(rows))
    if given.report:
        others = statistics.quantiles((one["others_cores"] for found in rows.values() for one in found), n=10)
        rounds = f"medians of {given.rounds} rounds of {given.seconds:g} s; other processes took {others[4]:.1f} cores "
        rounds += f"in the median, {others[8]:.1f} in the worst tenth"
        text = f"Measured on {report_file.machine()}; {rounds}.\n\n{table(rows)}"
        report_file.replace(given.report, "peers", text)


def table(rows: dict[tuple[str, int], list[dict[str, float]]]) -> str:
    """Return medians over the rounds as Markdown."""

    def middle(name: str, connections: int, figure: str) -> float:
        return statistics.median(row[figure] for row in rows[name, connections])

    head = [f"{figure}, {count}" for figure in ("CPU-ms", "requests/s", "p95 ms") for count in CONNECTIONS]
    lines = [f"| server | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for name in dict.fromkeys(name for name, _ in rows):
        cells = [f"{middle(name, count, 'cpu_ms'):.1f}" for count in CONNECTIONS]
        cells += [f"{middle(name, count, figure):.0f}" for figure in ("rate", "p95") for count in CONNECTIONS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True, help="bundle with a model.tflite and a model.keras")
    parser.add_argument("--image", type=Path, required=True, help="a JPEG of about 50 KB")
    parser.add_argument("--expect", required=True, help="what its class has in its name")
    parser.add_argument("--venvs", type=Path, default=Path(tempfile.gettempdir()) / "model-server-peers")
    parser.add_argument("--redis", default="redis-server", help="the program")
    parser.add_argument("--report", type=Path, help="Markdown whose section `peers` is to be replaced")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
