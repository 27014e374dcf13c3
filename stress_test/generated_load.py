"""Runs the load generator in a process of its own and reads what it found."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
    ``cpu_ms`` that ``cpu_seconds`` grew by a request, and latencies in ms: p50, p95, p99, mean, deviation, health_p99.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(request)
        file.flush()
        command = [sys.executable, str(GENERATOR), "--request", file.name, *options]
        command += [part for url in urls for part in ("--url", url)]
        subprocess.run([*command, "--seconds", str(warm_up)], check=True, capture_output=True)
        before = cpu_seconds()
        output = subprocess.run([*command, "--seconds", str(seconds)], check=True, capture_output=True).stdout
        spent = cpu_seconds() - before
    result: dict[str, Any] = json.loads(output)
    if result["error_count"] or not result["requests"]:
        raise RuntimeError(f"{result['error_count']} errors: {result['errors']}")
    return {
        "cpu_ms": spent / result["requests"] * 1000,
        "rate": result["requests"] / result["seconds"],
        "requests": result["requests"],
        "health_p99": result["health_ms"].get("p99", 0.0),
        **result["latency_ms"],
    }
