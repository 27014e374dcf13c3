"""The order of starting, keeping and ending."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from functools import partial
from typing import Any

import click
from pydantic import SecretStr

from model_server.client.control import RollBack, RollOut
from model_server.config import ENV_PREFIX, PredictorSettings, QueueProxySettings, UpSettings
from model_server.errors import Conflict, Unavailable
from model_server.up import announcement, control, database, history, ports
from model_server.up.child import Child, Ending, Service
from model_server.up.control import Say
from model_server.up.database import Database
from model_server.up.door import Door
from model_server.up.ports import Port
from model_server.up.predictors import FILE as PREDICTORS_FILE
from model_server.up.predictors import GRACE_SECONDS as PREDICTOR_GRACE_SECONDS
from model_server.up.predictors import Predictors
from model_server.up.rollout import Rollouts

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
"""Where the feedback service listens: the queue-proxy alone comes there."""
QUEUE_PROXY_GRACE_SECONDS = 4
FEEDBACK_GRACE_SECONDS = 1
"""One after the other, then the predictors, PostgreSQL last: together below the ten seconds after which Ctrl-C would
feel broken."""


def run(settings: UpSettings, predictor: PredictorSettings, queue_proxy: QueueProxySettings) -> None:
    """Run everything until SIGINT, SIGTERM or, where its terminal is closed, SIGHUP.

    Raises SettingsError before anything is started where a port or the data folder cannot be had.
    """
    ports.check(_ports(settings))
    folder = settings.data_dir.resolve()
    with database.reserve(folder):
        embedded = None if settings.database_url else Database(folder)
        asyncio.run(_System(settings, predictor, queue_proxy, embedded).run())


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
    def __init__(
        self,
        settings: UpSettings,
        predictor: PredictorSettings,
        queue_proxy: QueueProxySettings,
        embedded: Database | None,
    ) -> None:
        self._settings = settings
        self._predictor = predictor
        self._queue_proxy = queue_proxy
        self._folder = settings.data_dir.resolve()
        self._history = history.read(self._folder, predictor.model_dir.resolve() if predictor.model_dir else None)
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
        door = Door(self._url, self._settings.mode == "open")
        hosts, at = partial(self._with_hosts, environment), self._settings.predictor_host
        predictors = Predictors(hosts(at), at, self._folder, door, self._ending.hurried)
        rollouts = self._rollouts(predictors, environment)
        services = [
            Service(name, [name], hosts(host), grace, self._ending.hurried)
            for name, host, grace in (
                ("queue-proxy", self._settings.queue_proxy_host, QUEUE_PROXY_GRACE_SECONDS),
                ("feedback", LOOPBACK, FEEDBACK_GRACE_SECONDS),
            )
        ]
        watching = asyncio.create_task(self._watch(rollouts))
        predicting = asyncio.create_task(rollouts.until_failure())
        stopping = asyncio.create_task(self._ending.asked.wait())
        tasks: set[asyncio.Task[Any]] = {*(service.task for service in services), watching, predicting, stopping}
        async with control.listening(self._folder, rollouts.carry if self._is_ours() else _refuse):
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks - {service.task for service in services}:
            task.cancel()
        for service in services:
            await service.end()
        await predictors.end_all()
        for task in done:
            task.result()

    def _with_hosts(self, environment: dict[str, str], listens_at: str) -> dict[str, str]:
        """Return the environment of a service with the hosts that it answers for."""
        chosen = self._settings.allowed_hosts
        hosts = ports.names(listens_at) if chosen is None else chosen
        return {**environment, f"{ENV_PREFIX}ALLOWED_HOSTS": json.dumps(hosts)}

    def _is_ours(self) -> bool:
        """Whether the predictor that is started here is the one that callers are sent to."""
        return not (self._queue_proxy.predictors or self._queue_proxy.predictors_file)

    def _rollouts(self, predictors: Predictors, environment: dict[str, str]) -> Rollouts:
        kept = self._history
        if kept.bundle != kept.configured:
            bundle = kept.bundle or "the model in the package"
            logger.warning("serving %s, which was rolled out; `model-server rollback` goes back", bundle)
        database_url = SecretStr(environment[f"{ENV_PREFIX}DATABASE_URL"])
        settings = self._queue_proxy.model_copy(update={"database_url": database_url})
        known_ports = self._settings.predictor_port, self._settings.predictor_grpc_port
        return Rollouts(predictors, kept, self._folder, known_ports, settings)

    async def _watch(self, rollouts: Rollouts) -> None:
        """Say when all is ready, and see that PostgreSQL lives; returns never."""
        keeping = self._database.keep() if self._database else asyncio.Event().wait()
        await asyncio.gather(self._announce(rollouts), keeping)

    async def _announce(self, rollouts: Rollouts) -> None:
        await announcement.wait_until_ready(f"{self._predictor_url}/v2/health/ready")
        await announcement.wait_until_ready(f"http://{LOOPBACK}:{self._settings.feedback_port}/readyz")
        await announcement.wait_until_ready(f"{self._url}/readyz")
        from model_server.classifier import DEFAULT_MODEL

        try:
            model = await announcement.model_name(self._url)
        except Unavailable as error:  # it was ready a moment ago, and is started again
            logger.warning("%s", error)
            return
        picture = announcement.picture_to_try(rollouts.main.bundle or DEFAULT_MODEL)
        click.echo(announcement.text(self._url, model, picture, with_token=self._settings.mode == "accounts"))

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
            "predictors_file": self._folder / PREDICTORS_FILE if self._is_ours() else None,
            "mode": settings.mode,
            "predictor_host": settings.predictor_host,
            "runtime": self._predictor.runtime,
            "shutdown_grace_seconds": PREDICTOR_GRACE_SECONDS,
            "model_name": self._predictor.model_name,
        }
        given = {f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in ours.items() if value is not None}
        return {**os.environ, **given}


async def _refuse(_order: RollOut | RollBack, _say: Say) -> str:
    raise Conflict(f"{ENV_PREFIX}PREDICTORS or {ENV_PREFIX}PREDICTORS_FILE says who predicts: change that.")


def _secret(settings: UpSettings) -> str | None:
    return settings.database_url.get_secret_value() if settings.database_url else None
