"""A lean closed-loop HTTP load generator: fixed requests over keep-alive connections, bounded in time.

Prints one JSON line: requests, errors, seconds, latencies in ms, and the latencies of health probes sent meanwhile.

Example: python stress_test/load_generator.py --url http://127.0.0.1:8080 --request request.bin --connections 32
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

PROBE = b"GET /v2/health/live HTTP/1.1\r\nHost: probe\r\n\r\n"
PROBE_SECONDS = 0.02


class Connection(asyncio.Protocol):
    """One request at a time, the next as soon as the reply is complete."""

    def __init__(self, request: bytes, latencies: list[float], errors: list[str], deadline: float) -> None:
        self._request = request
        self._latencies = latencies
        self._errors = errors
        self._deadline = deadline
        self._received = b""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        if self._sent >= self._deadline:
            self._transport.close()
            return
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._received = b""
        if head.startswith(b"HTTP/1.1 200"):
            self._latencies.append(time.perf_counter() - self._sent)
        else:
            self._errors.append(head.split(b"\r\n", 1)[0].decode())
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if error:
            self._errors.append(repr(error))
        if not self.closed.done():
            self.closed.set_result(None)


async def probe(host: str, port: int, deadline: float) -> list[float]:
    """Ask for liveness at a fixed pace and return the latencies in seconds."""
    reader, writer = await asyncio.open_connection(host, port)
    latencies = []
    while time.perf_counter() < deadline:
        begun = time.perf_counter()
        writer.write(PROBE)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
        latencies.append(time.perf_counter() - begun)
        await asyncio.sleep(PROBE_SECONDS)
    writer.close()
    return latencies


async def generate(urls: list[str], request: bytes, connections: int, seconds: float) -> dict[str, object]:
    latencies: list[float] = []
    errors: list[str] = []
    begun = time.perf_counter()
    deadline = begun + seconds
    targets = [(part.hostname or "127.0.0.1", part.port or 80) for part in map(urlsplit, urls)]
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(
            lambda: Connection(request, latencies, errors, deadline), *targets[i % len(targets)]
        )
        for i in range(connections)
    ]
    health = await probe(*targets[0], deadline)
    await asyncio.gather(*(protocol.closed for _, protocol in opened))
    return {
        "requests": len(latencies),
        "errors": errors[:5],
        "error_count": len(errors),
        "seconds": time.perf_counter() - begun,
        "latency_ms": percentiles(latencies),
        "health_ms": percentiles(health),
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": cuts[49] * 1000, "p95": cuts[94] * 1000, "p99": cuts[98] * 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", action="append", required=True, help="server; several share the connections evenly")
    parser.add_argument("--request", type=Path, required=True, help="file with one whole HTTP request")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5)
    given = parser.parse_args()
    result = uvloop.run(generate(given.url, given.request.read_bytes(), given.connections, given.seconds))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
