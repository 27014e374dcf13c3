"""Image files through the queue of a server: sent with few at a time, followed until each is finished."""

from __future__ import annotations

import mimetypes
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import quote

from model_server.client import files
from model_server.client.server import PASSING, Patience, Server
from model_server.errors import ModelServerError, NotFound, Unauthorized, Unavailable

FOLLOWERS = 4
POLL_SECONDS = 5
"""How long the server may hold an answer back; then another picture is looked at."""
PERSISTENT = Patience(10, PASSING, losses=True)
"""About a minute: a server that starts again, or a queue that is full. The key makes a second attempt harmless."""
FINISHED = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class Submission:
    """One file and the server's resource for it; ``refused`` says why there is none."""

    index: int
    file: Path
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    prediction: dict[str, Any] | None = None
    refused: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will become of it."""
        return self.refused is not None or (self.prediction or {}).get("status") in FINISHED

    @property
    def succeeded(self) -> bool:
        """Whether it has classes."""
        return (self.prediction or {}).get("status") == "succeeded"


class Queue:
    """One model's queue on a server; raises Unavailable where the server stays away for a minute."""

    def __init__(self, url: str, model: str | None, token: str | None = None) -> None:
        """Check the URL and, where no model is named, ask the server for its only one, without that patience."""
        self._server = Server(url, PERSISTENT, token)
        self._path = f"/v1/models/{quote(model or Server(url, token=token).only_model(), safe='')}:predict"

    def send(self, submission: Submission) -> Submission:
        """Submit one file; the server's refusal of it, or an unreadable file, becomes ``refused``."""
        headers = {
            "Content-Type": _media_type(submission.file),
            "Prefer": "respond-async",
            "Idempotency-Key": submission.key,
        }
        try:
            reply = self._server.ask("POST", self._path, files.read(submission.file), headers)
        except (NotFound, Unauthorized, Unavailable):
            raise
        except ModelServerError as error:
            return replace(submission, refused=str(error))
        return self._updated(submission, self._server.document(reply))

    def follow(self, submission: Submission) -> Submission:
        """Return it as soon as it is finished, after some seconds as it then is."""
        path = f"/v1/predictions/{(submission.prediction or {})['id']}"
        try:
            reply = self._server.ask("GET", path, headers={"Prefer": f"wait={POLL_SECONDS}"})
        except Unavailable:
            raise
        except ModelServerError as error:
            return replace(submission, refused=str(error))
        return self._updated(submission, self._server.document(reply))

    def close(self) -> None:
        """Let no thread wait for another attempt."""
        self._server.close()

    def _updated(self, submission: Submission, resource: Any) -> Submission:
        match resource:
            case {"id": str(), "status": str()}:
                return replace(submission, prediction=resource)
        raise Unavailable(f"{self._server.url} has no queue: it does not answer with a prediction.")


def submit(queue: Queue, paths: Sequence[Path], parallel: int, *, wait: bool) -> Iterator[Submission]:
    """Yield one submission a file as it is finished, or, without ``wait``, as it is accepted.

    Where the server stays away, what was accepted is yielded as it is known before Unavailable is raised.
    """
    steps: SimpleQueue[Submission | Exception] = SimpleQueue()
    senders, followers = ThreadPoolExecutor(parallel), ThreadPoolExecutor(FOLLOWERS)
    accepted: dict[int, Submission] = {}
    try:
        for index, file in enumerate(paths):
            senders.submit(_step, steps, queue.send, Submission(index, file))
        left = len(paths)
        while left:
            step = steps.get()
            if isinstance(step, Exception):
                yield from accepted.values()
                raise step
            if wait and not step.finished:
                accepted[step.index] = step
                followers.submit(_step, steps, queue.follow, step)
            else:
                accepted.pop(step.index, None)
                left -= 1
                yield step
    finally:
        queue.close()
        for pool in (senders, followers):
            pool.shutdown(wait=False, cancel_futures=True)


def in_order(submissions: Iterable[Submission]) -> Iterator[Submission]:
    """Yield in the order of the files, each as soon as those before it are there."""
    early: dict[int, Submission] = {}
    following = 0
    try:
        for submission in submissions:
            early[submission.index] = submission
            while following in early:
                yield early.pop(following)
                following += 1
    except ModelServerError:
        yield from (early[index] for index in sorted(early))
        raise


def _step(
    steps: SimpleQueue[Submission | Exception], work: Callable[[Submission], Submission], submission: Submission
) -> None:
    try:
        steps.put(work(submission))
    except Exception as error:  # noqa: BLE001 - raised again by the thread that reads the steps
        steps.put(error)


def _media_type(file: Path) -> str:
    guessed = mimetypes.guess_type(file.name)[0] or ""
    return guessed if guessed.startswith("image/") else "image/unknown"
