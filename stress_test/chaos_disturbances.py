"""What is done to a running system: each process is killed, some are stopped for a while, the queue is filled."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil
import psycopg

import chaos_strangers
from chaos_load import Load
from local_system import LocalSystem

STOPPED_SECONDS = 5.0
"""Longer than the predictor's time to answer here: callers see 504, jobs are tried again."""
READ_ONLY_SECONDS = 5.0
END_OTHERS = b"""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
PREDICTOR_TIMEOUT_SECONDS = 3
SYNC_IN_FLIGHT, SYNC_WAITING = 32, 64
QUEUE_SIZE = 40
SETTINGS = {
    "predictor_timeout_seconds": PREDICTOR_TIMEOUT_SECONDS,
    "sync_in_flight": SYNC_IN_FLIGHT,
    "sync_waiting": SYNC_WAITING,
    "queue_size": QUEUE_SIZE,
    "retry_most_seconds": 5,
    "dispatch_lease_seconds": 10,
    "workers": 2,
    "max_image_cpu_seconds": 1,
    "head_timeout_seconds": 3,
    "unread_timeout_seconds": 3,
}
"""Limits that a test reaches on a laptop."""


@dataclass(frozen=True)
class Disturbance:
    """``closes_door``: while it lasts, connections to the queue-proxy may break."""

    name: str
    act: Callable[[LocalSystem, Load], Awaitable[None]]
    closes_door: bool = False


def _kill(service: str) -> Callable[[LocalSystem, Load], Awaitable[None]]:
    async def act(system: LocalSystem, _: Load) -> None:
        process = system.service(service)
        if process is None:
            raise RuntimeError(f"{service} does not run")
        process.kill()

    return act


async def _kill_worker(system: LocalSystem, _: Load) -> None:
    system.processes()["predictor"][1].kill()


async def _kill_postgres(system: LocalSystem, _: Load) -> None:
    _signal(system.processes()["postgres"], signal.SIGKILL)


async def _kill_backend(system: LocalSystem, _: Load) -> None:
    """PostgreSQL ends all others then, and recovers."""
    for process in system.processes()["postgres"][1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            if "idle" in " ".join(process.cmdline()):
                process.kill()
                return


async def _make_read_only(system: LocalSystem, _: Load) -> None:
    """Turn PostgreSQL into what a failover or a provider's guard of a full disk makes of it, and back."""
    await asyncio.to_thread(_set_read_only, system, "on")
    await asyncio.sleep(READ_ONLY_SECONDS)
    await asyncio.to_thread(_set_read_only, system, "off")


def _set_read_only(system: LocalSystem, is_on: str) -> None:
    """Change it for new sessions, and end those there are; back, those that the services have by now stay read-only."""
    with psycopg.connect(system.database_url(), autocommit=True) as connection:
        connection.execute(b"SET default_transaction_read_only = off")
        connection.execute(f"ALTER DATABASE postgres SET default_transaction_read_only = {is_on}".encode())
        if is_on == "on":
            connection.execute(END_OTHERS)


def _stop(service: str) -> Callable[[LocalSystem, Load], Awaitable[None]]:
    async def act(system: LocalSystem, _: Load) -> None:
        processes = system.processes()[service]
        _signal(processes, signal.SIGSTOP)
        await asyncio.sleep(STOPPED_SECONDS)
        _signal(processes, signal.SIGCONT)

    return act


async def _fill(system: LocalSystem, load: Load) -> None:
    """Send more than may be in flight and wait, and one request with more pictures than the predictor queues."""
    predictor = system.processes()["predictor"]
    _signal(predictor, signal.SIGSTOP)
    flood = asyncio.create_task(load.flood(2 * (SYNC_IN_FLIGHT + SYNC_WAITING)))
    await asyncio.sleep(1)
    _signal(predictor, signal.SIGCONT)
    await flood
    await load.send_many(QUEUE_SIZE + 20)


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


ALL = [
    Disturbance("kill the queue-proxy", _kill("queue-proxy"), closes_door=True),
    Disturbance("kill the feedback service", _kill("feedback")),
    Disturbance("kill the predictor", _kill("predictor")),
    Disturbance("kill a worker of the predictor", _kill_worker),
    Disturbance("kill PostgreSQL", _kill_postgres),
    Disturbance("kill a connection's process of PostgreSQL", _kill_backend),
    Disturbance(f"stop the predictor for {STOPPED_SECONDS:g} s", _stop("predictor")),
    Disturbance(f"stop PostgreSQL for {STOPPED_SECONDS:g} s", _stop("postgres")),
    Disturbance(f"turn PostgreSQL read-only for {READ_ONLY_SECONDS:g} s", _make_read_only),
    Disturbance("send slow heads", chaos_strangers.send_slow_heads),
    Disturbance("leave replies unread", chaos_strangers.leave_replies_unread),
    Disturbance("send pictures that cost too much", chaos_strangers.send_bombs),
    Disturbance("fill the queues", _fill),
]
