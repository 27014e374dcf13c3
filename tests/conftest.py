"""Real servers on free ports, one for the whole session where a test does not need its own."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy.engine import URL, make_url

from model_server.store.embedded import embedded_postgres
from model_server.store.migrate import migrate
from rabbit import Rabbit, server_program

REPOSITORY = Path(__file__).parent.parent
IMAGENET = REPOSITORY.parent / "shared" / "data" / "imagenet"
DEFAULT_BUNDLE = REPOSITORY / "model_server" / "default_model"
START_SECONDS = 90

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = iter(random.sample(range(12_000 + _worker % 4 * 5_000, 12_000 + (_worker % 4 + 1) * 5_000), 5_000))


@dataclass(frozen=True)
class Server:
    """A predictor in a process of its own."""

    url: str
    grpc: str
    model: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def predict_url(self) -> str:
        return f"{self.url}/v1/models/{self.model}:predict"

    @property
    def infer_url(self) -> str:
        return f"{self.url}/v2/models/{self.model}/infer"

    def stop(self, number: int = signal.SIGTERM, seconds: float = 40) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


StartServer = Callable[..., contextlib.AbstractContextManager[Server]]


def free_port() -> int:
    """Return a port that nobody else gets: not a worker of this run, nor a socket for which the kernel picks one."""
    for port in _ports:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    pytest.fail("no port is free")


@contextlib.contextmanager
def running_server(log: Path, *, ready: bool = True, port: int = 0, **settings: object) -> Iterator[Server]:
    """Start a predictor with MODEL_SERVER_ settings, wait until it is ready (or, ``ready=False``, alive)."""
    port, grpc_port = port or free_port(), free_port()
    ours = {
        **settings,
        "predictor_host": "127.0.0.1",
        "predictor_port": port,
        "predictor_grpc_port": grpc_port,
    }
    url = f"http://127.0.0.1:{port}"
    probe = url + ("/v2/health/ready" if ready else "/v2/health/live")
    with running_role(["predictor"], ours, log, probe) as process:
        model = httpx.get(f"{url}/v1/models").json()["models"][0]
        yield Server(url, f"127.0.0.1:{grpc_port}", model, process, log)


def environment_with(settings: Mapping[str, object]) -> dict[str, str]:
    """Return this environment with these MODEL_SERVER_ settings and no other."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODEL_SERVER_")}
    return inherited | {f"MODEL_SERVER_{name.upper()}": str(value) for name, value in settings.items()}


@contextlib.contextmanager
def running_role(
    command: Sequence[str], settings: Mapping[str, object], log: Path, probe: str, status: int = 200
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a role, wait until ``probe`` answers with ``status``, and end it. Its log is appended to."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "model_server", *command],
            env=environment_with(settings),
            stdout=output,
            stderr=output,
        )
    try:
        wait_until_answers(probe, process, log, status)
        yield process
    finally:
        end_process(process)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Terminate a server that still runs, and kill one that does not end."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_answers(url: str, process: subprocess.Popen[bytes], log: Path, status: int = 200) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}:\n{log.read_text()}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == status:
                return
        time.sleep(0.05)
    pytest.fail(f"{url} did not answer within {START_SECONDS} s:\n{log.read_text()}")


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> StartServer:
    """Start a server of one's own: ``with start_server(queue_size=4) as server``."""

    def start(**settings: object) -> contextlib.AbstractContextManager[Server]:
        return running_server(tmp_path_factory.mktemp("server") / "log", **settings)  # type: ignore[arg-type]

    return start


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Iterator[Server]:
    """Return the shared server with the default model and default settings."""
    with start_server() as running:
        yield running


@pytest.fixture(scope="session")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30) as session:
        yield session


@pytest.fixture(scope="session")
def imagenet() -> Path:
    if not IMAGENET.is_dir():
        pytest.skip(f"{IMAGENET} is absent: no ImageNet model and photographs to test with")
    return IMAGENET


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Return the URL of an embedded PostgreSQL with a migrated database named template."""
    with database_folder() as folder, embedded_postgres(folder) as url:
        server = make_url(url)
        _execute(server, "CREATE DATABASE template")
        migrate(server.set(drivername="postgresql+psycopg", database="template"))
        yield url


@contextlib.contextmanager
def database_folder() -> Iterator[Path]:
    """Make a folder that PostgreSQL's user may enter, where root runs the tests; pytest's own it may not."""
    with tempfile.TemporaryDirectory(prefix="model-server-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "postgres"


@pytest.fixture
def database_url(postgres: str) -> Iterator[str]:
    """Return the URL of a migrated database of the test's own."""
    with cloned_database(postgres) as url:
        yield url


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[Rabbit]:
    """Return a broker of the test's own, to be killed and started again."""
    with running_rabbit(tmp_path / "rabbit") as broker:
        yield broker


@pytest.fixture(scope="session")
def shared_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    with running_rabbit(tmp_path_factory.mktemp("session") / "rabbit") as broker:
        yield broker


@contextlib.contextmanager
def running_rabbit(folder: Path) -> Iterator[Rabbit]:
    if not server_program():
        pytest.skip("rabbitmq-server is not installed")
    folder.mkdir()
    broker = Rabbit(folder, free_port(), free_port(), free_port())
    # Erlang's name server, which the broker would else start as a daemon and leave behind.
    names = subprocess.Popen(["epmd", "-port", str(broker.names_port), "-address", "127.0.0.1"])
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
        end_process(names)


@contextlib.contextmanager
def cloned_database(postgres: str) -> Iterator[str]:
    """Make a copy of the migrated template, and drop it in the end."""
    server = make_url(postgres)
    name = f"test_{uuid.uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE template STRATEGY file_copy")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(server: URL, statement: str) -> None:
    dsn = server.render_as_string(hide_password=False)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())
