"""The whole system on this machine for the length of a test: `model-server up` on free ports, in a temporary folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from processes import cpu_seconds, free_port, wait_for, with_children

SERVICES = ("queue-proxy", "feedback", "predictor")
START_SECONDS = 120
END_SECONDS = 30


@dataclass(frozen=True)
class LocalSystem:
    """A running system; ``log`` has what its services wrote."""

    url: str
    predictor_url: str
    grpc: str
    process: subprocess.Popen[bytes]
    data: Path
    log: Path

    def service(self, name: str) -> psutil.Process | None:
        """Return the process of one service, None where it does not run."""
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.cmdline()[-1:] == [name] and child.status() != psutil.STATUS_ZOMBIE:
                    return child
        return None

    def postgres(self) -> psutil.Process | None:
        """Return PostgreSQL's server process: it is nobody's child, and found by its data."""
        pid_file = self.data / "postgres" / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
            return psutil.Process(int(pid_file.read_text(encoding="ascii").splitlines()[0]))
        return None

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Return the processes of each service that runs, its own first."""
        roots = {name: self.service(name) for name in SERVICES} | {"postgres": self.postgres()}
        found = {}
        for name, root in roots.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                if root:
                    found[name] = with_children(root.pid)
        return found

    def cpu_seconds(self) -> float:
        """Return the CPU time of all living processes, and of PostgreSQL's that have ended."""
        total = 0.0
        for processes in self.processes().values():
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += cpu_seconds(process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            if server := self.postgres():
                times = server.cpu_times()
                total += times.children_user + times.children_system
        return total

    def database_url(self) -> str:
        """Return where its PostgreSQL is, as libpq reads it."""
        return f"postgresql://postgres@/postgres?host={self.data / 'postgres'}"


@contextlib.contextmanager
def local_system(**settings: object) -> Iterator[LocalSystem]:
    """Start it with MODEL_SERVER_ settings, wait until it is ready, end it by Ctrl-C; raises RuntimeError.

    SIGTERM becomes SystemExit from here on, so that it ends the system too.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="model-server-stress-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user where root starts it
        environment = _environment(Path(folder), settings)
        log = Path(folder) / "log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "model_server", "up"]
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        system = _described(process, environment, log)
        try:
            _wait(system)
            yield system
        finally:
            _end(process)


def _environment(folder: Path, settings: dict[str, object]) -> dict[str, str]:
    ours = {
        "queue_proxy_port": free_port(),
        "feedback_port": free_port(),
        "predictor_port": free_port(),
        "predictor_grpc_port": free_port(),
        "data_dir": folder / "data",
        "log_level": "warning",
        **settings,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODEL_SERVER_")}
    return environment | {f"MODEL_SERVER_{name.upper()}": str(value) for name, value in ours.items()}


def _described(process: subprocess.Popen[bytes], environment: dict[str, str], log: Path) -> LocalSystem:
    def address(name: str) -> str:
        return f"127.0.0.1:{environment[f'MODEL_SERVER_{name}_PORT']}"

    data = Path(environment["MODEL_SERVER_DATA_DIR"])
    return LocalSystem(
        f"http://{address('QUEUE_PROXY')}",
        f"http://{address('PREDICTOR')}",
        address("PREDICTOR_GRPC"),
        process,
        data,
        log,
    )


def _wait(system: LocalSystem) -> None:
    try:
        wait_for(f"{system.predictor_url}/v2/health/ready", system.process, START_SECONDS)
        wait_for(f"{system.url}/readyz", system.process, START_SECONDS)
    except RuntimeError as error:
        raise RuntimeError(f"the system did not start: {error}\n{system.log.read_text(errors='replace')}") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def first_model(url: str) -> str:
    """Return the name of the first model that a server tells of."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as reply:
        return str(json.load(reply)["models"][0])
