"""A Docker engine for the tests: the one that is running, or one of their own that leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from conftest import REPOSITORY, START_SECONDS, end_process

ENGINE_SECONDS = 60
BUILD_SECONDS = 900
AS_IN_A_POD = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "1000")
"""What the restricted Pod Security Standard asks for, and a root that nobody can write to. No tmpfs is mounted."""


@dataclass(frozen=True)
class Engine:
    """A Docker client with an engine that answers."""

    command: tuple[str, ...]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            [*self.command, *arguments], capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        if check and finished.returncode:
            pytest.fail(f"docker {' '.join(arguments)} ended with {finished.returncode}:\n{finished.stderr}")
        return finished

    def build(self, *arguments: str) -> None:
        """Build by scripts/build-image, on a base made here where debootstrap can make one."""
        if os.getuid() == 0 and shutil.which("debootstrap"):
            arguments = ("--local-base", *arguments)
        environment = os.environ | {"DOCKER": " ".join(self.command)}
        finished = subprocess.run(
            [REPOSITORY / "scripts" / "build-image", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        if finished.returncode:
            pytest.fail(f"build-image {' '.join(arguments)} ended with {finished.returncode}:\n{finished.stderr}")

    @contextlib.contextmanager
    def container(
        self, image: str, *arguments: str, volumes: Iterable[str] = (), **settings: object
    ) -> Iterator[Container]:
        """Start a container as a strict cluster would, with MODEL_SERVER_ settings; remove it in the end."""
        options = [*AS_IN_A_POD, "--network", "host"]
        for volume in volumes:
            options += ["--volume", volume]
        for name, value in settings.items():
            options += ["--env", f"MODEL_SERVER_{name.upper()}={value}"]
        identifier = self.run("run", "--detach", *options, image, *arguments).stdout.strip()
        try:
            yield Container(self, identifier)
        finally:
            self.run("rm", "--force", "--volumes", identifier)


@dataclass(frozen=True)
class Container:
    """A container that was started."""

    engine: Engine
    identifier: str

    @property
    def log(self) -> str:
        finished = self.engine.run("logs", self.identifier)
        return finished.stdout + finished.stderr

    def status(self) -> str:
        return self.engine.run("inspect", "--format", "{{.State.Status}}", self.identifier).stdout.strip()

    def wait(self) -> int:
        """Return the exit status, once it has ended."""
        return int(self.engine.run("wait", self.identifier).stdout)

    def wait_until_answers(self, url: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(url).status_code == 200:
                    return
            if self.status() == "exited":
                pytest.fail(f"the container ended with {self.wait()}:\n{self.log}")
            time.sleep(0.1)
        pytest.fail(f"{url} did not answer within {START_SECONDS} s:\n{self.log}")

    def terminate(self) -> tuple[int, float]:
        """Send SIGTERM as an orchestrator does; return the exit status and the seconds that it took."""
        begun = time.monotonic()
        self.engine.run("kill", "--signal", "TERM", self.identifier)
        return self.wait(), time.monotonic() - begun


@contextlib.contextmanager
def docker_engine() -> Iterator[Engine]:
    """Find an engine, or start one; skip with the reason where neither can be."""
    client = _client()
    if subprocess.run([client, "version"], capture_output=True, check=False).returncode == 0:
        yield Engine((client,))
    elif os.getuid() != 0:
        pytest.skip("no Docker engine answers, and only root may start one")
    elif shutil.which("dockerd") is None:
        pytest.skip("no Docker engine answers, and there is none to start: apt-get install docker.io")
    else:
        with _private_engine(client) as engine:
            yield engine


def _client() -> str:
    """Return Debian's client where it is installed: it fits Debian's engine and builds without a plugin."""
    if Path("/usr/bin/docker").exists():
        return "/usr/bin/docker"
    if (found := shutil.which("docker")) is None:
        pytest.skip("no Docker client: apt-get install docker.io")
    return found


@contextlib.contextmanager
def _private_engine(client: str) -> Iterator[Engine]:
    # pytest's own folders have names too long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    address = f"unix://{folder}/socket"
    try:
        # It touches no firewall and no bridge of this machine; containers use the machine's network.
        command = ["dockerd", "--host", address, "--bridge", "none", "--iptables=false", "--ip6tables=false"]
        command += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
        with (folder / "log").open("wb") as log:
            # It ends with us, even where we are killed, and its mounts are gone with it.
            alone = ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount"]
            process = subprocess.Popen([*alone, *command], stdout=log, stderr=log)
        try:
            _wait_for_engine(client, address, process, folder / "log")
            yield Engine((client, "--host", address))
        finally:
            end_process(process)
    finally:
        shutil.rmtree(folder)


def _wait_for_engine(client: str, address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + ENGINE_SECONDS
    while subprocess.run([client, "--host", address, "version"], capture_output=True, check=False).returncode:
        if process.poll() is not None:
            last = (log.read_text().strip() or "it said nothing").splitlines()[-1]
            pytest.skip(f"dockerd cannot run here: {last}")
        if time.monotonic() > deadline:
            pytest.skip(f"dockerd did not answer within {ENGINE_SECONDS} s")
        time.sleep(0.2)
