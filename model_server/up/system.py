"""The order of starting, keeping and ending."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import click

from model_server.config import ENV_PREFIX, PredictorSettings, UpSettings
from model_server.errors import Unavailable
from model_server.up import announcement, database, ports
from model_server.up.child import Child, Ending
from model_server.up.database import Database
from model_server.up.ports import Port

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
"""Where the feedback service listens: the queue-proxy alone comes there."""
QUEUE_PROXY_GRACE_SECONDS = 4
FEEDBACK_GRACE_SECONDS = 1
PREDICTOR_GRACE_SECONDS = 2
"""One after the other, PostgreSQL last: together below the ten seconds after which Ctrl-C would feel broken."""


def run(settings: UpSettings, predictor: PredictorSettings) -> None:
    """Run everything until SIGINT, SIGTERM or, where its terminal is closed, SIGHUP.

    Raises SettingsError before anything is started where a port or the data folder cannot be had.
    """
    ports.check(_ports(settings))
    if settings.database_url:
        asyncio.run(_System(settings, predictor, None).run())
        return
    folder = settings.data_dir.resolve()
    with database.reserve(folder):
        asyncio.run(_System(settings, predictor, Database(folder)).run())


def _ports(settings: UpSettings) -> list[Port]:
    wanted = [
        Port(settings.queue_proxy_host, settings.queue_proxy_port, "queue_proxy_port", "--port"),
        Port(LOOPBACK, settings.feedback_port, "feedback_port", "--feedback-port"),
        Port(settings.predictor_host, settings.predictor_port, "predictor_port", "--predictor-port"),
    ]
    if settings.predictor_grpc_port:
        wanted.append(Port(settings.predictor_host, settings.predictor_grpc_port, "predictor_grpc_port", "--grpc-port"))
    return wanted


class _System:
    def __init__(self, settings: UpSettings, predictor: PredictorSettings, embedded: Database | None) -> None:
        self._settings = settings
        self._predictor = predictor
        self._database = embedded
        self._ending = Ending()
        self._url = f"http://{ports.reachable(settings.queue_proxy_host)}:{settings.queue_proxy_port}"
        self._predictor_url = f"http://{ports.reachable(settings.predictor_host)}:{settings.predictor_port}"

    async def run(self) -> None:
        """Start, keep running until a signal, end in the opposite order."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._stop)
        if self._database is None:
            await self._run_services()
            return
        try:
            await self._database.start()
            await self._run_services()
        finally:
            await self._database.stop()

    def _stop(self) -> None:
        """End everything; asked again, without waiting for what is in flight."""
        if self._ending.asked.is_set():
            self._ending.hurried.set()
            return
        logger.info("ending everything; another Ctrl-C hastens it")
        self._ending.asked.set()

    async def _run_services(self) -> None:
        environment = self._environment()
        migration = Child("migration", ["migrate"], environment, PREDICTOR_GRACE_SECONDS, self._ending)
        if await migration.run_once() and not self._ending.asked.is_set():
            raise Unavailable("The tables of the database could not be made; the lines above say why.")
        if not self._ending.asked.is_set():
            await self._serve(environment)

    async def _serve(self, environment: dict[str, str]) -> None:
        order = (
            ("queue-proxy", QUEUE_PROXY_GRACE_SECONDS),
            ("feedback", FEEDBACK_GRACE_SECONDS),
            ("predictor", PREDICTOR_GRACE_SECONDS),
        )
        ends = {name: Ending(hurried=self._ending.hurried) for name, _ in order}
        services = {
            name: asyncio.create_task(Child(name, [name], environment, grace, ends[name]).run())
            for name, grace in order
        }
        watching = asyncio.create_task(self._watch())
        stopping = asyncio.create_task(self._ending.asked.wait())
        done, _ = await asyncio.wait({*services.values(), watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        stopping.cancel()
        for name, service in services.items():
            ends[name].asked.set()
            await asyncio.wait({service})
        for task in done:
            task.result()

    async def _watch(self) -> None:
        """Say when all is ready, and see that PostgreSQL lives; returns never."""
        keeping = self._database.keep() if self._database else asyncio.Event().wait()
        await asyncio.gather(self._announce(), keeping)

    async def _announce(self) -> None:
        await announcement.wait_until_ready(f"{self._predictor_url}/v2/health/ready")
        await announcement.wait_until_ready(f"http://{LOOPBACK}:{self._settings.feedback_port}/readyz")
        await announcement.wait_until_ready(f"{self._url}/readyz")
        model = await announcement.model_name(self._url)
        click.echo(announcement.text(self._url, model, announcement.picture_to_try(self._bundle())))

    def _bundle(self) -> Path:
        from model_server.classifier import DEFAULT_MODEL

        return (self._predictor.model_dir or DEFAULT_MODEL).resolve()

    def _environment(self) -> dict[str, str]:
        settings = self._settings
        log_format = settings.log_format
        if log_format == "auto":
            log_format = "text" if sys.stderr.isatty() else "json"
        database_url = self._database.url if self._database else _secret(settings)
        ours = {
            "log_level": settings.log_level,
            "log_format": log_format,
            "database_url": database_url,
            "queue_proxy_host": settings.queue_proxy_host,
            "queue_proxy_port": settings.queue_proxy_port,
            "feedback_host": LOOPBACK,
            "feedback_port": settings.feedback_port,
            "feedback_url": f"http://{LOOPBACK}:{settings.feedback_port}",
            "predictor_url": self._predictor_url,
            "mode": settings.mode,
            "predictor_host": settings.predictor_host,
            "predictor_port": settings.predictor_port,
            "predictor_grpc_port": settings.predictor_grpc_port,
            "model_dir": self._predictor.model_dir,
            "model_name": self._predictor.model_name,
            "runtime": self._predictor.runtime,
            "shutdown_grace_seconds": PREDICTOR_GRACE_SECONDS,
        }
        given = {f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in ours.items() if value is not None}
        return {**os.environ, **given}


def _secret(settings: UpSettings) -> str | None:
    return settings.database_url.get_secret_value() if settings.database_url else None
