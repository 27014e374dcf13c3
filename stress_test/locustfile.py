"""The load: people on the page, clients of each protocol, clients of the queue, people who give feedback.

Settings are environment variables STRESS_… (`stress_settings.py`); bounds are in `slo.py`, shapes in `shapes.py`.

Example: STRESS_SHAPE=spike STRESS_USERS=32 locust -f stress_test/locustfile.py --host http://127.0.0.1:8000 --headless
"""

from __future__ import annotations

import functools
import json
import random
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from locust import FastHttpUser, User, constant, events, task

import photographs
import progress_line
import slo
from locust_shape import shape
from photographs import Photograph
from requests_checked import JSON, Wrong, check_v1, check_v2, v1_base64, v2
from stress_settings import StressSettings

SETTINGS = StressSettings()
PICTURES = photographs.load(SETTINGS.pictures)
IDENTITY = {"Authorization": f"Bearer {SETTINGS.token}"} if SETTINGS.token else {}
POLL_SECONDS = 5
AGAIN_SECONDS = 1
FINISHED = frozenset({"succeeded", "failed", "cancelled"})

if SETTINGS.grpc:
    from grpc_client import GrpcClient
if SETTINGS.shape:
    Shape = shape(SETTINGS.shape, SETTINGS.users, SETTINGS.seconds)


def picture() -> Photograph:
    chosen = random.choice(PICTURES)
    return chosen.unlike_any_other() if SETTINGS.unlike else chosen


@functools.cache
def model_name(host: str) -> str:
    """Return the model to ask for: the setting's, or the server's first."""
    if SETTINGS.model:
        return SETTINGS.model
    request = urllib.request.Request(f"{host}/v1/models", headers=IDENTITY)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return str(json.load(reply)["models"][0])


class Caller(FastHttpUser):
    """A client over HTTP that reads each reply."""

    abstract = True
    wait_time = constant(SETTINGS.pause_seconds)
    network_timeout = SETTINGS.result_seconds

    def on_start(self) -> None:
        """Learn the model's name."""
        self.model = model_name(self.host)
        self.predict_path = f"/v1/models/{self.model}:predict"

    @contextmanager
    def checked(self, method: str, path: str, name: str, status: int = 200, **options: Any) -> Iterator[Any]:
        """Send a request; a status other than ``status``, or Wrong raised inside, is a failure of that route."""
        headers = {**IDENTITY, **options.pop("headers", {})}
        with self.client.request(method, path, name=name, headers=headers, catch_response=True, **options) as reply:
            if reply.status_code != status:
                reply.failure(f"{reply.status_code or reply.error}: {(reply.text or '')[:200]}")
                yield None
                return
            try:
                yield reply
            except (Wrong, ValueError) as error:
                reply.failure(str(error))

    def predict(self, name: str, path: str, body: bytes, headers: dict[str, str], check: Callable[[Any], Any]) -> None:
        with self.checked("POST", path, name, data=body, headers=headers) as reply:
            if reply is not None:
                check(reply.json())


class PageUser(Caller):
    """Opens the page."""

    weight = SETTINGS.page_weight
    wait_time = constant(SETTINGS.person_seconds)

    @task
    def open(self) -> None:
        """Load the page as a browser first does."""
        with self.checked("GET", "/", slo.PAGE) as reply:
            if reply is not None and "</html>" not in reply.text:
                raise Wrong("not the page")


class V1Base64User(Caller):
    """V1 with base64 in JSON."""

    weight = SETTINGS.v1_base64_weight

    @task
    def classify(self) -> None:
        """Send one picture."""
        photograph = picture()
        check = lambda document: check_v1(document, photograph)  # noqa: E731
        self.predict(slo.V1_BASE64, self.predict_path, v1_base64(photograph), JSON, check)


class V1RawUser(Caller):
    """V1 with the image as the body."""

    weight = SETTINGS.v1_raw_weight

    @task
    def classify(self) -> None:
        """Send one picture."""
        photograph = picture()
        headers = {"Content-Type": photograph.media_type}
        check = lambda document: check_v1(document, photograph)  # noqa: E731
        self.predict(slo.V1_RAW, self.predict_path, photograph.content, headers, check)


class V2User(Caller):
    """V2 in JSON."""

    weight = SETTINGS.v2_weight

    @task
    def classify(self) -> None:
        """Send one picture."""
        photograph = picture()
        path = f"/v2/models/{self.model}/infer"
        self.predict(slo.V2, path, v2(photograph), JSON, lambda document: check_v2(document, photograph))


class AsyncUser(Caller):
    """Puts a picture into the queue and asks for its result until it is there."""

    weight = SETTINGS.async_weight

    @task
    def submit_and_poll(self) -> None:
        """Submit one picture; the time from there to its result is a row of its own."""
        photograph, begun = picture(), time.perf_counter()
        headers = {"Content-Type": photograph.media_type, "Prefer": "respond-async"}
        location = None
        with self.checked(
            "POST", self.predict_path, slo.SUBMIT, 202, data=photograph.content, headers=headers
        ) as reply:
            if reply is not None:
                location = reply.headers.get("Location")
        if location:
            error = self._follow(location, photograph, begun + SETTINGS.result_seconds)
            self.environment.events.request.fire(
                request_type="job",
                name=slo.RESULT,
                response_time=(time.perf_counter() - begun) * 1000,
                response_length=0,
                exception=error,
                context={},
            )

    def _follow(self, location: str, photograph: Photograph, deadline: float) -> Exception | None:
        headers = {"Prefer": f"wait={POLL_SECONDS}"}
        while time.perf_counter() < deadline:
            found: dict[str, Any] = {}
            with self.checked("GET", location, slo.POLL, headers=headers) as reply:
                found = reply.json() if reply is not None else found
            if found.get("status") in FINISHED:
                return _wrong(found, photograph)
            if reply is None:
                time.sleep(AGAIN_SECONDS)
        return Wrong(f"no result within {SETTINGS.result_seconds:g} s")


def _wrong(found: dict[str, Any], photograph: Photograph) -> Exception | None:
    if found["status"] != "succeeded":
        return Wrong(f"{found['status']}: {found.get('error')}")
    try:
        check_v1(found, photograph)
    except Wrong as error:
        return error
    return None


class FeedbackUser(Caller):
    """Says of a picture whether its class was right."""

    weight = SETTINGS.feedback_weight
    wait_time = constant(SETTINGS.person_seconds)

    @task
    def judge(self) -> None:
        """Classify a picture, then send what a person would say."""
        photograph, said = picture(), {}
        headers = {"Content-Type": photograph.media_type}
        with self.checked("POST", self.predict_path, slo.V1_RAW, data=photograph.content, headers=headers) as reply:
            if reply is not None:
                said = check_v1(reply.json(), photograph)
        if said:
            body = {"score": min(1, said["score"]), "predicted_class": said["label"], "correct": True}
            body |= {"image_file_name": photograph.name, "feedback": "load test"}
            with self.checked("POST", "/feedback/", slo.FEEDBACK, 201, json=body):
                pass


class GrpcUser(User):
    """V2 over gRPC, straight at the predictor."""

    weight = SETTINGS.grpc_weight if SETTINGS.grpc else 0
    wait_time = constant(SETTINGS.pause_seconds)

    def on_start(self) -> None:
        """Open a channel."""
        self.client = GrpcClient(str(SETTINGS.grpc), model_name(self.host), self.environment)

    def on_stop(self) -> None:
        """Close it."""
        self.client.close()

    @task
    def classify(self) -> None:
        """Send one picture."""
        self.client.classify(picture())


@events.init.add_listener
def _show_progress(environment: Any, **_: Any) -> None:
    progress_line.show(environment, SETTINGS.seconds if SETTINGS.shape else None)


@events.quitting.add_listener
def _judge(environment: Any, **_: Any) -> None:
    rows = [
        slo.Measured(
            entry.name,
            entry.num_requests,
            entry.num_failures,
            entry.get_response_time_percentile(0.95),
            entry.get_response_time_percentile(0.99),
        )
        for entry in environment.stats.entries.values()
    ]
    missed = slo.violations(rows, slo.load(SETTINGS.objectives))
    for sentence in missed:
        print(sentence)
    environment.process_exit_code = 1 if missed else 0
