"""The whole system, started as its users start it: `model-server up`, on free ports and a folder of its own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from conftest import START_SECONDS, environment_with, free_port

COMMAND = Path(sys.executable).parent / "model-server"
END_SECONDS = 10
"""What `model-server up` promises for Ctrl-C."""


@dataclass(frozen=True)
class System:
    """A running system; ``log`` has its standard error, ``output`` its standard output."""

    url: str
    predictor_url: str
    feedback_url: str
    process: subprocess.Popen[bytes]
    data: Path
    log: Path
    output: Path

    @property
    def model(self) -> str:
        name: str = httpx.get(f"{self.url}/v1/models").json()["models"][0]
        return name

    @property
    def predict_url(self) -> str:
        return f"{self.url}/v1/models/{self.model}:predict"

    def service(self, name: str) -> psutil.Process | None:
        """Return the process of one service, None where it is not running."""
        for child in alive(psutil.Process(self.process.pid).children()):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if child.cmdline()[-1:] == [name]:
                    return child
        return None

    def postgres(self) -> list[psutil.Process]:
        """Return the PostgreSQL server on this system's data: it is nobody's child."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if process.name() == "postgres" and str(self.data / "postgres") in process.cmdline():
                    found.append(process)
        return found

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return all(
                httpx.get(url).status_code == 200
                for url in (
                    f"{self.url}/readyz",
                    f"{self.feedback_url}/readyz",
                    f"{self.predictor_url}/v2/health/ready",
                )
            )
        return False

    def wait_until_ready(self) -> None:
        self._wait(self.is_ready, "ready")

    def wait_until_announced(self) -> None:
        self._wait(lambda: "Ctrl-C" in self.output.read_text(), "announced")

    def wait_for_log(self, words: str) -> None:
        self._wait(lambda: words in self.log.read_text(), f"saying {words!r}")

    def _wait(self, condition, name: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if self.process.poll() is not None:
                pytest.fail(f"`up` ended with {self.process.returncode}:\n{self.log.read_text()}")
            if time.monotonic() > deadline:
                pytest.fail(f"not {name} within {START_SECONDS} s:\n{self.log.read_text()}")
            time.sleep(0.05)


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those that run; who has ended and waits for its parent to look does not."""
    running = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
    return running


def settings_for(folder: Path, **settings: object) -> dict[str, str]:
    """Return an environment with free ports and this folder, and no setting of the caller's."""
    ours = {
        "queue_proxy_port": free_port(),
        "feedback_port": free_port(),
        "predictor_port": free_port(),
        "predictor_grpc_port": 0,
        "data_dir": folder / "data",
        **settings,
    }
    return environment_with(ours)


@contextlib.contextmanager
def running_system(folder: Path, **settings: object) -> Iterator[System]:
    """Start a system with MODEL_SERVER_ settings, wait until it is ready, end it by Ctrl-C."""
    folder.mkdir(exist_ok=True)
    environment = settings_for(folder, **settings)
    log, output = folder / "log", folder / "output"
    with log.open("wb") as error, output.open("wb") as out:
        process = subprocess.Popen([COMMAND, "up"], env=environment, stdout=out, stderr=error)
    system = System(
        f"http://127.0.0.1:{environment['MODEL_SERVER_QUEUE_PROXY_PORT']}",
        f"http://127.0.0.1:{environment['MODEL_SERVER_PREDICTOR_PORT']}",
        f"http://127.0.0.1:{environment['MODEL_SERVER_FEEDBACK_PORT']}",
        process,
        Path(environment["MODEL_SERVER_DATA_DIR"]),
        log,
        output,
    )
    try:
        system.wait_until_announced()
        yield system
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(END_SECONDS + 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
