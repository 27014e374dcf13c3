"""Runs the load generator in a process of its own and reads what it found."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

GENERATOR = Path(__file__).parent / "load_generator.py"
WARM_UP_SECONDS = 1.5


def generate(
    urls: Sequence[str],
    request: bytes,
    seconds: float,
    cpu_seconds: Callable[[], float],
    *options: str,
    warm_up: float = WARM_UP_SECONDS,
) -> dict[str, float]:
    """Warm up, then load the servers; raises RuntimeError where one request was not answered with 200.

    ``options`` are the generator's, such as ``--connections 32`` or ``--rate 100``. Returns requests/s as ``rate``,
    ``cpu_ms`` that ``cpu_seconds`` grew by a request, ``others_cores`` that neither servers nor generator used, and
    latencies in ms: p50, p95, p99, mean, deviation, health_p99.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(request)
        file.flush()
        command = [sys.executable, str(GENERATOR), "--request", file.name, *options]
        command += [part for url in urls for part in ("--url", url)]
        subprocess.run([*command, "--seconds", str(warm_up)], check=True, capture_output=True)
        before, busy_before, begun = cpu_seconds(), _machine_cpu_seconds(), time.perf_counter()
        output = subprocess.run([*command, "--seconds", str(seconds)], check=True, capture_output=True).stdout
        spent, took = cpu_seconds() - before, time.perf_counter() - begun
        others = _machine_cpu_seconds() - busy_before - spent
    result: dict[str, Any] = json.loads(output)
    if result["error_count"] or not result["requests"]:
        raise RuntimeError(f"{result['error_count']} errors: {result['errors']}")
    return {
        "cpu_ms": spent / result["requests"] * 1000,
        "rate": result["requests"] / result["seconds"],
        "requests": result["requests"],
        "others_cores": max(0.0, others / took),
        "health_p99": result["health_ms"].get("p99", 0.0),
        **result["latency_ms"],
    }


def _machine_cpu_seconds() -> float:
    """Return the CPU time of all processes, but of the generators that have ended."""
    times, ended = psutil.cpu_times(), psutil.Process().cpu_times()
    return times.user + times.nice + times.system - ended.children_user - ended.children_system
