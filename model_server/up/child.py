"""One service as a child process that is started again whenever it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from model_server.errors import SettingsError
from model_server.printable import printable

logger = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.5
MOST_DELAY_SECONDS = 30.0
STABLE_SECONDS = 60
"""A service that ran for so long is started again at once, as if it had never failed."""
SETTINGS_REFUSED = 2
PR_SET_PDEATHSIG = 1
PROGRAM = (sys.executable, "-P", "-m", "model_server")

_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Ending:
    """When a child ends: once ``asked``, politely; after its grace, or once ``hurried``, by force."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hurried: asyncio.Event = field(default_factory=asyncio.Event)


class Child:
    """A command of this program, in a process group of its own, out of reach of the terminal's Ctrl-C."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        grace_seconds: float,
        ending: Ending,
    ) -> None:
        self.name = name
        self._arguments = arguments
        self._environment = environment
        self._grace_seconds = grace_seconds
        self._ending = ending
        self.ends = 0
        """How often it has ended."""

    async def run(self) -> None:
        """Keep it running until asked to end; raises SettingsError where it refuses its settings."""
        failures = 0
        while not self._ending.asked.is_set():
            begun = time.monotonic()
            status = await self.run_once()
            self.ends += 1
            if self._ending.asked.is_set():
                return
            if status == SETTINGS_REFUSED:
                raise SettingsError(f"The {self.name} does not start with these settings; its last line says why.")
            failures = 1 if time.monotonic() - begun > STABLE_SECONDS else failures + 1
            delay = min(FIRST_DELAY_SECONDS * 2 ** (failures - 1), MOST_DELAY_SECONDS)
            logger.warning("the %s %s; starting it again in %g s", self.name, _describe(status), delay)
            await self._wait_for_stop(delay)

    async def run_once(self) -> int:
        """Start it and return its exit status, negative for a signal."""
        process = await asyncio.create_subprocess_exec(
            *PROGRAM,
            *self._arguments,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        relaying = asyncio.create_task(self._relay(process.stdout)) if process.stdout else None
        ended = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(self._ending.asked.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not ended.done():
            await self._terminate(process)
        status = await ended
        # What it has started itself, and what would hold its output open.
        _signal_group(process.pid, signal.SIGKILL)
        if relaying:
            await relaying
        return status

    async def _terminate(self, process: asyncio.subprocess.Process) -> None:
        _signal_group(process.pid, signal.SIGTERM)
        ended, hurry = asyncio.create_task(process.wait()), asyncio.create_task(self._ending.hurried.wait())
        await asyncio.wait({ended, hurry}, timeout=self._grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not ended.done():
            logger.warning("the %s has not ended yet and is killed", self.name)
            _signal_group(process.pid, signal.SIGKILL)
        await ended

    async def _wait_for_stop(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.asked.wait()

    async def _relay(self, output: asyncio.StreamReader) -> None:
        """Write its lines to our standard error; on a terminal each begins with its name."""
        prefix = f"{self.name:<11} │ " if sys.stderr.isatty() else ""
        rest = b""
        while chunk := await output.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            _write("".join(f"{prefix}{_shown(line)}\n" for line in lines))
        if rest:
            _write(f"{prefix}{_shown(rest)}\n")


class Service:
    """A child that is kept running, as a task, until it is ended."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        grace_seconds: float,
        hurried: asyncio.Event,
    ) -> None:
        self._ending = Ending(hurried=hurried)
        self._child = Child(name, arguments, environment, grace_seconds, self._ending)
        self.task = asyncio.create_task(self._child.run())

    @property
    def has_ended(self) -> bool:
        """Whether it has ever ended, be it to be started again."""
        return self._child.ends > 0

    async def end(self) -> None:
        """End it, and return when it has ended."""
        self._ending.asked.set()
        await asyncio.wait({self.task})


def _shown(line: bytes) -> str:
    """Return a line of a service's log as it is, and of what else has written there what can be printed."""
    return printable(line.decode(errors="backslashreplace"))


def _write(text: str) -> None:
    sys.stderr.buffer.write(text.encode())
    sys.stderr.buffer.flush()


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def _end_with_parent() -> None:
    # Linux alone: where we are killed without a chance to end our children, the kernel does it.
    if sys.platform == "linux":
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _describe(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
