"""Puts load on the whole system, started for it or at --url, and writes what came of it.

Into --output go report.html (Locust's), summary.md, summary.png, samples.jsonl and Locust's CSV files. The exit status
is 1 where an objective of slo.py was missed. What the load consists of are variables STRESS_… (stress_settings.py);
MODEL_SERVER_… variables are not passed on to a system that is started here, --set is.

Example: scripts/stress --shape spike --users 32 --seconds 60 --output stress-results
Example: scripts/stress --url https://pictures.example.com --namespace models --selector app=predictor
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import summary
from local_system import LocalSystem, first_model, local_system
from observer import Observer
from shapes import FUNCTIONS

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Target:
    """What is put under load, and how its replicas and CPU time are told."""

    url: str
    grpc: str | None
    replicas: Callable[[], int | None]
    cpu_seconds: Callable[[], float | None]
    name: str


@contextlib.contextmanager
def target(given: argparse.Namespace) -> Iterator[Target]:
    if given.url:
        yield Target(given.url.rstrip("/"), given.grpc, _replicas_in_cluster(given), lambda: None, given.url)
        return
    settings = dict(part.split("=", 1) for part in given.set)
    if given.model_dir:
        settings["model_dir"] = str(given.model_dir.resolve())
    with local_system(**settings) as system:
        yield Target(
            system.url, system.grpc, lambda: _predictors(system), system.cpu_seconds, "the system on this machine"
        )


def _predictors(system: LocalSystem) -> int:
    return int(system.service("predictor") is not None)


def _replicas_in_cluster(given: argparse.Namespace) -> Callable[[], int | None]:
    if not given.selector:
        return lambda: None
    from pods import Pods

    pods = Pods(given.namespace, given.selector)
    return pods.ready


def run_locust(given: argparse.Namespace, aim: Target, model: str) -> int:
    environment = os.environ | {"STRESS_MODEL": model}
    if aim.grpc:
        environment["STRESS_GRPC"] = aim.grpc
    pictures = given.pictures or given.model_dir
    if pictures:
        environment["STRESS_PICTURES"] = str(pictures.resolve())
    command = [sys.executable, "-m", "locust", "--locustfile", str(HERE / "locustfile.py"), "--headless"]
    command += ["--host", aim.url, "--only-summary", "--stop-timeout", "10"]
    for option, name in (("--logfile", "locust.log"), ("--html", "report.html"), ("--csv", "locust")):
        command += [option, str(given.output / name)]
    command.append("--csv-full-history")
    if given.processes > 1:
        command += ["--processes", str(given.processes)]
    if given.shape:
        environment |= {"STRESS_SHAPE": given.shape, "STRESS_SECONDS": str(given.seconds)}
        environment["STRESS_USERS"] = str(given.users)
    else:
        command += ["--users", str(given.users), "--spawn-rate", str(given.users), "--run-time", f"{given.seconds:g}s"]
    with (given.output / "locust.txt").open("wb") as output:
        return subprocess.run(command, env=environment, stdout=output, check=False).returncode


def run(given: argparse.Namespace) -> int:
    given.output.mkdir(parents=True, exist_ok=True)
    with target(given) as aim:
        model = os.environ.get("STRESS_MODEL") or first_model(aim.url)
        observer = Observer(aim.url, aim.replicas, aim.cpu_seconds, os.environ.get("STRESS_TOKEN"))
        with observer.watching() as samples:
            status = run_locust(given, aim, model)
    (given.output / "samples.jsonl").write_text("".join(f"{sample.as_json()}\n" for sample in samples))
    load = f"{given.shape or 'constant'}, {given.users} users, {given.seconds:g} s, model {model}"
    verdict = (given.output / "locust.txt").read_text(encoding="utf-8")
    text = summary.write(given.output, f"{aim.name}: {load}", samples, verdict)
    print(text)
    print(f"{given.output / 'report.html'} and {given.output / 'summary.png'} show it over time.")
    if "Traceback" in (given.output / "locust.log").read_text(encoding="utf-8"):
        print(f"A user did not work at all; {given.output / 'locust.log'} says why.", file=sys.stderr)
        return 1
    return status


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/stress", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a running system; without, one is started on this machine")
    parser.add_argument("--grpc", help="host:port of its predictor's gRPC; without, no gRPC users")
    parser.add_argument("--namespace", default="default", help="of the predictor's pods, with --selector")
    parser.add_argument("--selector", help="labels of the predictor's pods; without, replicas are not counted")
    parser.add_argument("--model-dir", type=Path, help="bundle that the started system serves, and its golden pictures")
    parser.add_argument("--pictures", type=Path, help="folder with pictures and labels.tsv instead")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="setting of a started system")
    parser.add_argument("--shape", choices=sorted(FUNCTIONS), help="without: all users all the time")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--processes", type=int, default=1, help="of Locust; one makes about 1,000 requests/s")
    parser.add_argument("--output", type=Path, default=Path("stress-results"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(parse()))
