"""Documents of a wrong structure, 2,000 of them, to every route that reads one: refused in words, and at once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from accounts_server import PASSWORD, Accounts, running_accounts
from conftest import Server, cloned_database
from mutations import mutated
from pictures import b64, draw, encode

PHOTO = encode(draw(32, 32))
SECONDS = 10
"""A document that takes longer has found something quadratic, also on a machine that has much to do."""
CASES = 144
"""For each of the 14 kinds of documents."""
FIXED = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
V1 = {"instances": [{"image": {"b64": b64(PHOTO)}}, [[[1, 2, 3]]]], "parameters": {"top_k": 2}, "signature_name": "x"}
V2 = {
    "id": "7",
    "parameters": {"binary_data_output": False},
    "inputs": [
        {"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(PHOTO)], "parameters": {"content_type": "x"}}
    ],
    "outputs": [{"name": "label", "parameters": {"binary_data": False}}, {"name": "scores"}],
}
PIXELS = {"inputs": [{"name": "image", "shape": [1, 1, 2, 3], "datatype": "FP32", "data": [1, 2, 3.0, 4, 5, 6]}]}
JUDGEMENT = {
    "prediction_id": str(uuid.uuid4()),
    "score": 0.5,
    "predicted_class": "cat",
    "image_file_name": "a.png",
    "feedback": "fine",
    "correct_class": "dog",
    "correct": False,
    "model": "pets",
    "model_version": "1",
}
TASKS = [
    {
        "id": 1,
        "data": {"image": f"/data/{'a' * 64}.png", "sha256": "a" * 64},
        "annotations": [
            {
                "was_cancelled": False,
                "completed_by": {"id": 1, "email": "ada@example.com"},
                "result": [{"type": "choices", "value": {"choices": ["cat"]}}],
            }
        ],
    }
]


@dataclass(frozen=True)
class Running:
    """All three services, and a keep-alive connection to each."""

    client: httpx.Client
    predictor: Server
    accounts: Accounts
    admin: dict[str, str]
    user: str

    def send(self, url: str, content: bytes, method: str = "POST", **headers: str) -> httpx.Response:
        named = {"Content-Type": "application/json", **{name.replace("_", "-"): one for name, one in headers.items()}}
        return self.client.request(method, url, content=content, headers={**self.admin, **named})

    def door(self, path: str, content: bytes, method: str = "POST", **headers: str) -> httpx.Response:
        return self.send(self.accounts.url + path.format(model=self.predictor.model), content, method, **headers)


@pytest.fixture(scope="module")
def running(postgres: str, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("structures")
    with (
        cloned_database(postgres) as url,
        running_accounts(folder, url, server.url) as accounts,
        httpx.Client(timeout=60) as client,
    ):
        admin = accounts.administrator()
        user = accounts.register().id
        yield Running(client, server, accounts, admin.headers, user)


def a_form(running: Running, metadata: bytes) -> httpx.Response:
    options: dict[str, Any] = {"data": {"command": "predict", "metadata": metadata}, "files": {"image": PHOTO}}
    return running.client.post(f"{running.accounts.url}/inference", headers=running.admin, **options)


Send = Callable[[Running, bytes], httpx.Response]
V1_PATH, V2_PATH = "/v1/models/{model}:predict", "/v2/models/{model}/infer"
DOCUMENTS: dict[str, tuple[Any, Send]] = {
    "V1 at the predictor": (V1, lambda running, body: running.send(running.predictor.predict_url, body)),
    "V2 at the predictor": (V2, lambda running, body: running.send(running.predictor.infer_url, body)),
    "V2 pixels at the predictor": (PIXELS, lambda running, body: running.send(running.predictor.infer_url, body)),
    "V1 at the door": (V1, lambda running, body: running.door(V1_PATH, body)),
    "V1 to be queued": (V1, lambda running, body: running.door(V1_PATH, body, Prefer="respond-async")),
    "V2 to be queued": (V2, lambda running, body: running.door(V2_PATH, body, Prefer="respond-async")),
    "columns": (
        {"signature_name": "x", "inputs": {"images": [{"b64": b64(PHOTO)}]}},
        lambda running, body: running.door(V1_PATH, body),
    ),
    "hub": (
        {"inputs": b64(PHOTO), "parameters": {"top_k": 2, "function_to_apply": "softmax"}},
        lambda running, body: running.door("/models/{model}", body),
    ),
    "command": ({"request_id": "7", "shape": "256x256", "dtype": "uint8"}, a_form),
    "image to be queued": (
        {"name": "photo.jpg", "data": b64(PHOTO)},
        lambda running, body: running.door("/inference/image", body),
    ),
    "quota": (
        {"requests_per_second": 100, "burst": 1000, "images_per_day": 0},
        lambda running, body: running.door(f"/v1/quotas/{running.user}", body, "PUT"),
    ),
    "account": (
        {"name": "Ada", "email": "a@example.com", "password": PASSWORD},
        lambda running, body: running.door("/user/", body),
    ),
    "judgement": (JUDGEMENT, lambda running, body: running.door("/feedback/", body)),
    "tasks": (TASKS, lambda running, body: running.door("/feedback/import", body)),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_structure_of_a_document_is_our_fault_or_takes_long(running: Running, name: str) -> None:
    document, send = DOCUMENTS[name]

    @FIXED
    @given(mutated(document))
    def try_one(body: bytes) -> None:
        begun = time.monotonic()
        reply = send(running, body)
        assert reply.status_code < 500, (reply.text, body[:500])
        assert time.monotonic() - begun < SECONDS, body[:500]
        if reply.status_code >= 400:
            assert len(reply.json()["error"]) < 500, "what is repeated of a request is cut"

    try_one()
