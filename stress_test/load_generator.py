"""A lean HTTP load generator: fixed requests over keep-alive connections, bounded in time, closed or open loop.

Prints one JSON line: requests, errors, seconds, latencies in ms, and the latencies of health probes sent meanwhile.

Example: python stress_test/load_generator.py --url http://127.0.0.1:8080 --request request.bin --connections 32
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

PROBE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
PROBE_SECONDS = 0.02
DRAIN_SECONDS = 30


@dataclass
class Record:
    """What came of the requests; latencies in seconds."""

    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One request at a time; ``idle`` is called with the connection whenever it has none."""

    def __init__(self, request: bytes, serial_bytes: int, record: Record, idle: Callable[[Connection], None]) -> None:
        self._request = request[: len(request) - serial_bytes]
        self._serial_bytes = serial_bytes
        self._record = record
        self._idle = idle
        self._received = b""
        self._since = 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._idle(self)

    def send(self) -> None:
        self._since = time.perf_counter()
        self._transport.write(self._request + os.urandom(self._serial_bytes))  # type: ignore[attr-defined]

    def close(self) -> None:
        self._transport.close()

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
            self._record.latencies.append(time.perf_counter() - self._since)
        else:
            self._record.errors.append(head.split(b"\r\n", 1)[0].decode())
        self._idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        if error:
            self._record.errors.append(repr(error))
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


async def generate(
    urls: list[str], request: bytes, connections: int, seconds: float, serial_bytes: int = 0
) -> dict[str, object]:
    """Closed loop: each connection sends its next request as soon as it has the reply to the last."""
    record, begun = Record(), time.perf_counter()
    deadline = begun + seconds

    def idle(connection: Connection) -> None:
        if time.perf_counter() < deadline:
            connection.send()
        else:
            connection.close()

    opened = await connect(urls, connections, lambda: Connection(request, serial_bytes, record, idle))
    health = await probe(*address(urls[0]), deadline)
    await asyncio.gather(*(connection.closed for connection in opened))
    return result(record, begun, health)


def random_pauses(rate: float, seed: int) -> Iterator[float]:
    """Return the seconds from one request to the next where ``rate`` come in a second at random moments."""
    source = random.Random(seed)
    while True:
        yield source.expovariate(rate)


async def generate_after_pauses(
    urls: list[str], request: bytes, pauses: Iterator[float], seconds: float, serial_bytes: int = 0
) -> dict[str, object]:
    """Open loop: each request comes a pause after the one before, whether or not others were answered."""
    record, free, opened = Record(), deque[Connection](), []
    begun = at = time.perf_counter()
    turn = 0
    while (at := at + next(pauses)) < begun + seconds:
        await asyncio.sleep(at - time.perf_counter())
        if not free:
            opened += await connect(
                [urls[turn % len(urls)]], 1, lambda: Connection(request, serial_bytes, record, free.append)
            )
            turn += 1
        free.popleft().send()
    deadline = time.perf_counter() + DRAIN_SECONDS
    while len(free) < len(opened) and time.perf_counter() < deadline:  # noqa: ASYNC110 - seen soon enough
        await asyncio.sleep(0.01)
    record.errors += ["no reply"] * (len(opened) - len(free))
    for connection in opened:
        connection.close()
    return result(record, begun, [])


async def connect(urls: list[str], count: int, make: Callable[[], Connection]) -> list[Connection]:
    targets = [address(url) for url in urls]
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(make, *targets[i % len(targets)]))[1] for i in range(count)]


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


def result(record: Record, begun: float, health: list[float]) -> dict[str, object]:
    return {
        "requests": len(record.latencies),
        "errors": record.errors[:5],
        "error_count": len(record.errors),
        "seconds": time.perf_counter() - begun,
        "latency_ms": percentiles(record.latencies),
        "health_ms": percentiles(health),
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    found = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}
    found |= {"mean": statistics.fmean(seconds), "deviation": statistics.pstdev(seconds)}
    return {name: value * 1000 for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", action="append", required=True, help="server; several share the connections evenly")
    parser.add_argument("--request", type=Path, required=True, help="file with one whole HTTP request")
    parser.add_argument("--connections", type=int, default=32, help="closed loop: requests under way all the time")
    parser.add_argument("--rate", type=float, help="open loop instead: requests/s, at random moments")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of --rate")
    parser.add_argument("--serial-bytes", type=int, default=0, help="at the request's end, to be random each time")
    parser.add_argument("--seconds", type=float, default=5)
    given = parser.parse_args()
    request = given.request.read_bytes()
    if given.rate:
        pauses = random_pauses(given.rate, given.seed)
        made = generate_after_pauses(given.url, request, pauses, given.seconds, given.serial_bytes)
    else:
        made = generate(given.url, request, given.connections, given.seconds, given.serial_bytes)
    print(json.dumps(uvloop.run(made)))


if __name__ == "__main__":
    main()
