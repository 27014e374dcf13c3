"""One worker process as the server sees it."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import subprocess
import sys

from model_server.decoding.messages import Task, frame

END_SECONDS = 5
"""A process that has not ended so long after its socket was closed is killed."""
PIPE_BYTES = 64 * 1024
"""What a pipe holds: what a library writes beyond it before it is read is lost."""


ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1024 * 1024)}
"""mallopt(3): the C library gives back at once what was larger, and does not learn to keep it."""


class Child:
    """A process with a socket for messages, a pipe for what libraries complain of, and a number that it looks at.

    The number is how many of the pictures that it was sent are taken back: those of them not begun it skips.
    """

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self._complaints, pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        memory = os.memfd_create("taken back")
        os.ftruncate(memory, mmap.PAGESIZE)
        self._taken_back = memoryview(mmap.mmap(memory, mmap.PAGESIZE)).cast("Q")
        handed = (theirs.fileno(), memory, pipe)
        command = [sys.executable, "-m", "model_server.decoding.worker", *map(str, handed)]
        try:
            self.process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, pass_fds=handed, env=os.environ | ENVIRONMENT
            )
        except OSError:
            self.socket.close()
            os.close(self._complaints)
            raise
        finally:
            theirs.close()
            os.close(memory)
            os.close(pipe)

    def begin(self, task: Task) -> None:
        """Say what is to be made of the pictures."""
        # It fits the socket's buffer, so this does not wait for the child.
        self.socket.sendall(frame(task))

    def take_back(self, count: int) -> None:
        """Have it skip the first ``count`` of the pictures it was sent, as far as it has not begun them."""
        self._taken_back[0] = count

    def complaints(self) -> bytes:
        """Return what C libraries have written to standard error since the last call, as far as the pipe held it."""
        try:
            return os.read(self._complaints, PIPE_BYTES)
        except BlockingIOError:
            return b""

    def kill(self) -> None:
        """End it in the middle of its work."""
        self.process.kill()

    async def end(self) -> tuple[int, bytes]:
        """Wait for the process whose socket is closed; kill it where it does not end.

        Returns its exit status, and the last of what libraries complained of.
        """
        try:
            status = await asyncio.to_thread(self.process.wait, END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = await asyncio.to_thread(self.process.wait)
        last = self.complaints()
        os.close(self._complaints)
        return status, last
