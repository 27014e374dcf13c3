"""Clients of other services, unchanged: each family is asked over HTTP as its own clients ask."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from PIL import Image

from accounts_server import SECRET, Person
from conftest import Server, cloned_database
from model_server.queue_proxy.drop_in import raw_pixels
from model_server.queue_proxy.drop_in.raw_pixels import PixelFormat
from pictures import b64, draw, encode
from queue_server import Proxy, StubPredictor, answers, free_port, running_proxy, slow

UNKNOWN = "0198f3a2-ac96-774b-bcce-b302099a8057"


@pytest.fixture(scope="module")
def picture() -> bytes:
    return encode(draw())


@pytest.fixture(scope="module")
def proxy(server: Server, postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A queue-proxy in front of the shared predictor with the model of the package."""
    log = tmp_path_factory.mktemp("drop-in") / "log"
    with cloned_database(postgres) as url, running_proxy(log, url, server.url, model=server.model) as running:
        yield running


@pytest.fixture(scope="module")
def truth(proxy: Proxy, picture: bytes) -> dict[str, Any]:
    """What V1 says of the picture."""
    reply = httpx.post(proxy.predict_url, content=picture, headers={"Content-Type": "image/jpeg"})
    assert reply.status_code == 200, reply.text
    return reply.json()["predictions"][0]


def post(proxy: Proxy, path: str, **options: Any) -> httpx.Response:
    return httpx.post(proxy.url + path, timeout=30, **options)


def poll(proxy: Proxy, path: str) -> httpx.Response:
    """Ask as the family's clients do, every now and then until it is not 202."""
    deadline = time.monotonic() + 20
    while (reply := proxy.get(path)).status_code == 202:
        assert reply.json()["status"] in {"queued", "running"}
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return reply


class TestUuids:
    @pytest.mark.parametrize("media_type", ["application/json", "text/plain", "text/plain; charset=latin-1", ""])
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_identifier_leads_to_the_label(
        self, proxy: Proxy, picture: bytes, truth: dict[str, Any], media_type: str, slash: str
    ) -> None:
        content = json.dumps({"name": "photo.jpg", "data": b64(picture)})
        headers = {"Content-Type": media_type} if media_type else {}
        accepted = post(proxy, f"/inference/image{slash}", content=content, headers=headers)
        assert accepted.status_code == 200, accepted.text
        assert accepted.json().keys() == {"uuid"}
        done = poll(proxy, f"/predictions/{accepted.json()['uuid']}{slash}")
        assert (done.status_code, done.json()) == (200, {"prediction": truth["label"]})

    @pytest.mark.parametrize("identifier", [UNKNOWN, "b2a4c7e0-0000-4000-8000-000000000000", "nonsense"])
    def test_unknown_identifier_is_404(self, proxy: Proxy, identifier: str) -> None:
        reply = proxy.get(f"/predictions/{identifier}")
        assert reply.status_code in {404, 410} if identifier == UNKNOWN else reply.status_code == 404
        assert reply.json().keys() == {"error"}

    @pytest.mark.parametrize(
        "document",
        ['{"name": "x"}', '{"name": "x", "data": "%%%"}', '{"data": "aGVsbG8="}', '{"name": 7, "data": ""}', "[]", "x"],
    )
    def test_body_without_an_image_is_400(self, proxy: Proxy, document: str) -> None:
        reply = post(proxy, "/inference/image", content=document)
        assert reply.status_code == 400
        assert reply.json().keys() == {"error"}

    def test_before_the_end_it_is_202_and_the_queue_takes_work_while_the_predictor_is_away(
        self, postgres: str, tmp_path: Any, picture: bytes
    ) -> None:
        document = {"name": "x", "data": b64(picture)}
        port = free_port()
        with (
            cloned_database(postgres) as url,
            running_proxy(tmp_path / "log", url, f"http://127.0.0.1:{port}", default_model="stub") as proxy,
        ):
            identifier = post(proxy, "/inference/image", json=document).json()["uuid"]
            waiting = proxy.get(f"/predictions/{identifier}")
            assert waiting.status_code == 202
            assert waiting.json()["status"] in {"queued", "running"}
            assert int(waiting.headers["Retry-After"]) >= 1
            with StubPredictor(answers("dog"), port):
                assert poll(proxy, f"/predictions/{identifier}").json() == {"prediction": "dog"}

    def test_what_the_predictor_refuses_is_told_at_the_identifier(
        self, postgres: str, tmp_path: Any, picture: bytes
    ) -> None:
        refusing = StubPredictor(lambda _number, _body: (400, b'{"error": "The image is damaged."}'))
        with (
            refusing,
            cloned_database(postgres) as url,
            running_proxy(tmp_path / "log", url, refusing.url) as proxy,
        ):
            identifier = post(proxy, "/inference/image", json={"data": b64(picture)}).json()["uuid"]
            ended = poll(proxy, f"/predictions/{identifier}")
            assert ended.status_code == 400
            assert ended.json() == {"status": "failed", "error": "The image is damaged."}

    def test_cancelled_prediction_is_gone(self, postgres: str, tmp_path: Any, picture: bytes) -> None:
        with (
            StubPredictor(slow(5)) as stub,
            cloned_database(postgres) as url,
            running_proxy(tmp_path / "log", url, stub.url, shutdown_grace_seconds=1) as proxy,
        ):
            identifier = post(proxy, "/inference/image", json={"data": b64(picture)}).json()["uuid"]
            assert httpx.delete(f"{proxy.url}/v1/predictions/{identifier}").status_code == 200
            assert proxy.get(f"/predictions/{identifier}").status_code == 410


class TestForms:
    def test_upload_is_answered_with_label_and_score(self, proxy: Proxy, picture: bytes, truth: dict[str, Any]) -> None:
        reply = post(proxy, "/predict", files={"file": ("photo.jpg", picture, "image/jpeg")})
        assert reply.status_code == 200, reply.text
        assert reply.json() == {"success": True, "prediction": truth["label"], "score": truth["score"]}

    def test_identical_upload_is_classified_once(self, proxy: Proxy) -> None:
        image = encode(draw(200, 100), "PNG")
        for _ in range(3):
            assert post(proxy, "/predict", files={"file": image}).json()["success"]
        reply = httpx.post(proxy.predict_url, content=image, headers={"Content-Type": "image/png"})
        assert "hit" in reply.headers["Cache-Status"], "the family and V1 ask the predictor each for itself"

    @pytest.mark.parametrize(
        "options",
        [
            {"files": {"file": ("notes.txt", b"no image", "text/plain")}},
            {"files": {"file": ("empty.jpg", b"", "image/jpeg")}},
            {"files": {"file": ("broken.jpg", b"\xff\xd8\xff broken", "image/jpeg")}},
            {"files": {"other": ("photo.jpg", b"\xff\xd8\xff", "image/jpeg")}},
            {"data": {"file": "a text"}},
            {"content": b"\xff\xd8\xff", "headers": {"Content-Type": "image/jpeg"}},
        ],
        ids=["text", "empty", "broken", "other field", "text field", "no form"],
    )
    def test_what_is_no_image_is_400_and_no_success(self, proxy: Proxy, options: dict[str, Any]) -> None:
        reply = post(proxy, "/predict", **options)
        assert reply.status_code == 400
        assert reply.json()["success"] is False
        assert reply.json()["error"].endswith(".")

    def test_with_a_token_the_image_gets_a_name_of_its_own(self, postgres: str, tmp_path: Any) -> None:
        png = encode(draw(), "PNG")
        with (
            StubPredictor(answers("cat")) as stub,
            cloned_database(postgres) as url,
            running_proxy(tmp_path / "log", url, stub.url, token_secret=SECRET) as proxy,
        ):
            assert post(proxy, "/model/predict", files={"file": png}).status_code == 401
            user = a_user(proxy)
            reply = user.send("POST", "/model/predict", files={"file": ("x.png", png)})
            assert reply.status_code == 200, reply.text
            assert reply.json() == {
                "success": True,
                "prediction": "cat",
                "score": 0.9,
                "image_file_name": f"{hashlib.sha256(png).hexdigest()}.png",
            }
            refused = user.send("POST", "/model/predict", files={"file": b"no image"})
            assert (refused.status_code, refused.json()["success"]) == (400, False)


def a_user(proxy: Proxy, *, is_admin: bool = False) -> Person:
    """Make a user in the database, and a token as the login gives."""
    import asyncio

    from model_server.accounts import tokens
    from model_server.store import users
    from model_server.store.database import Database, make_url

    async def make() -> Any:
        database = Database(make_url(proxy.database_url).set(drivername="postgresql+psycopg"), 2)
        email = f"{time.time_ns()}@example.com"
        row = await users.create(database, users.NewUser("Ada", email, email, "-", is_admin))
        await database.close()
        assert row
        return row.id

    identifier = asyncio.run(make())
    token = tokens.issue(SECRET.encode(), identifier, 600)
    return Person(proxy.url, str(identifier)).with_token(token)


def command(proxy: Proxy, image: bytes, metadata: Any = None, **fields: str) -> httpx.Response:
    text = metadata if isinstance(metadata, str) else json.dumps(metadata or {})
    return post(proxy, "/inference", data={"command": "predict", "metadata": text, **fields}, files={"image": image})


class TestCommands:
    def test_encoded_image_is_classified_whatever_its_metadata_say_of_pixels(
        self, proxy: Proxy, picture: bytes, truth: dict[str, Any]
    ) -> None:
        metadata = {"request_id": "camera-7/42", "shape": "256x256", "dtype": "float32"}
        reply = command(proxy, picture, metadata)
        assert reply.status_code == 200, reply.text
        assert reply.json() == {
            "class": truth["label"],
            "confidence_level": truth["score"],
            "prediction": truth["top"],
            "request_id": "camera-7/42",
        }

    @pytest.mark.parametrize(
        ("dtype", "unit"),
        [("uint8", False), ("float32", False), ("float32", True), ("float64", True)],
        ids=["uint8", "float32 0-255", "float32 0-1", "float64 0-1"],
    )
    @pytest.mark.parametrize("channels", [3, 1])
    def test_raw_pixels_are_what_the_same_array_is_to_v1(
        self, proxy: Proxy, dtype: str, channels: int, unit: bool
    ) -> None:
        mode = "RGB" if channels == 3 else "L"
        pixels = np.asarray(draw(60, 40).convert(mode)).reshape(40, 60, channels)
        sent = (pixels / 255 if unit else pixels).astype(dtype)
        reply = command(proxy, sent.tobytes(), {"shape": "40x60", "dtype": dtype})
        assert reply.status_code == 200, reply.text
        instance = np.broadcast_to(pixels, (40, 60, 3)).tolist()
        wanted = httpx.post(proxy.predict_url, json={"instances": [instance]}).json()["predictions"][0]
        assert reply.json()["class"] == wanted["label"]
        assert reply.json()["confidence_level"] == pytest.approx(wanted["score"], abs=1e-6)

    @pytest.mark.parametrize(
        ("image", "metadata", "fields"),
        [
            (b"x" * 12, {"shape": "2x2", "dtype": "uint8"}, {"command": "train"}),
            (b"x" * 13, {"shape": "2x2", "dtype": "uint8"}, {}),
            (b"x" * 12, {"shape": "2x2", "dtype": "int4"}, {}),
            (b"x" * 12, {"shape": "two by two", "dtype": "uint8"}, {}),
            (b"x" * 12, {"dtype": "uint8"}, {}),
            (b"x" * 12, {"shape": "2x2x4", "dtype": "uint8"}, {}),
            (np.full(12, np.nan, "float32").tobytes(), {"shape": "2x2", "dtype": "float32"}, {}),
            (np.full(12, -1, "float32").tobytes(), {"shape": "2x2", "dtype": "float32"}, {}),
            (np.full(12, 300, "float32").tobytes(), {"shape": "2x2", "dtype": "float32"}, {}),
            (b"no image", {}, {}),
            (b"\xff\xd8\xff broken", {}, {}),
            (b"x" * 12, "no json", {}),
            (b"x" * 12, "[]", {}),
            (b"x" * 12, {"request_id": "with a\nbreak", "shape": "2x2", "dtype": "uint8"}, {}),
        ],
    )
    def test_wrong_parameters_are_400(self, proxy: Proxy, image: bytes, metadata: Any, fields: Any) -> None:
        reply = command(proxy, image, metadata, **fields)
        assert reply.status_code == 400, reply.text
        assert reply.json().keys() == {"error"}

    def test_missing_parts_are_400(self, proxy: Proxy, picture: bytes) -> None:
        whole = {"command": "predict", "metadata": "{}"}
        assert post(proxy, "/inference", data=whole, files={"image": picture}).status_code == 200
        for missing in whole:
            fields = {name: value for name, value in whole.items() if name != missing}
            assert post(proxy, "/inference", data=fields, files={"image": picture}).status_code == 400
        assert post(proxy, "/inference", data=whole, files={"other": picture}).status_code == 400

    def test_request_id_reaches_the_predictor(self, postgres: str, tmp_path: Any, picture: bytes) -> None:
        with (
            StubPredictor(answers()) as stub,
            cloned_database(postgres) as url,
            running_proxy(tmp_path / "log", url, stub.url) as proxy,
        ):
            assert command(proxy, picture, {"request_id": 42}).json()["request_id"] == "42"
            assert stub.headers[-1]["x-request-id"] == "42"

    def test_fault_of_the_predictor_is_a_server_error(self, postgres: str, tmp_path: Any, picture: bytes) -> None:
        with (
            StubPredictor(lambda _number, _body: (500, b'{"error": "a secret of ours"}')) as stub,
            cloned_database(postgres) as url,
            running_proxy(tmp_path / "log", url, stub.url) as proxy,
        ):
            assert command(proxy, picture).status_code >= 500

    def test_pixels_that_begin_like_a_bitmap_are_pixels(self) -> None:
        pixels = b"BM" + bytes(range(10))
        tiff = raw_pixels.to_tiff(pixels, PixelFormat.parse("2x2", "uint8"), 1000)
        assert np.asarray(Image.open(io.BytesIO(tiff))).tobytes() == pixels


class TestHub:
    def test_client_of_the_hub_gets_labels_and_scores(
        self, proxy: Proxy, picture: bytes, truth: dict[str, Any], tmp_path: Any
    ) -> None:
        client = InferenceClient(model=f"{proxy.url}/models/{proxy.model}")
        path = tmp_path / "photo.jpg"
        path.write_bytes(picture)
        for image in (picture, path, str(path)):
            found = client.image_classification(image)
            assert [(one.label, one.score) for one in found] == [(one["label"], one["score"]) for one in truth["top"]]

    def test_client_of_the_hub_may_ask_for_fewer(self, proxy: Proxy, picture: bytes, truth: dict[str, Any]) -> None:
        client = InferenceClient(model=f"{proxy.url}/models/{proxy.model}")
        found = client.image_classification(picture, top_k=2, function_to_apply="softmax")
        assert [one.label for one in found] == [one["label"] for one in truth["top"][:2]]

    @pytest.mark.parametrize(
        "document",
        [
            {"inputs": "%%%"},
            {"parameters": {}},
            {"inputs": "aGVsbG8="},
            {"inputs": "IMAGE", "parameters": {"top_k": 0}},
            {"inputs": "IMAGE", "parameters": {"function_to_apply": "sigmoid"}},
            {"inputs": "IMAGE", "parameters": {"temperature": 1}},
        ],
    )
    def test_wrong_body_is_400(self, proxy: Proxy, picture: bytes, document: dict[str, Any]) -> None:
        if document.get("inputs") == "IMAGE":
            document = {**document, "inputs": b64(picture)}
        assert post(proxy, f"/models/{proxy.model}", json=document).status_code == 400

    def test_unknown_model_is_404(self, proxy: Proxy, picture: bytes) -> None:
        assert post(proxy, "/models/other", content=picture).status_code == 404


class TestTensorFlowServing:
    """Bodies as its documentation and its users' programs send them."""

    @pytest.mark.parametrize("media_type", ["application/json", "application/x-www-form-urlencoded", ""])
    def test_rows(self, proxy: Proxy, picture: bytes, truth: dict[str, Any], media_type: str) -> None:
        document = {"signature_name": "serving_default", "instances": [{"image_bytes": {"b64": b64(picture)}}]}
        headers = {"Content-Type": media_type} if media_type else {}
        reply = httpx.post(proxy.predict_url, content=json.dumps(document), headers=headers)
        assert reply.status_code == 200, reply.text
        assert reply.json()["predictions"][0]["label"] == truth["label"]

    @pytest.mark.parametrize(
        "inputs", ["one", "list", "named", "named list"], ids=["one", "list", "named", "named list"]
    )
    def test_columns(self, proxy: Proxy, picture: bytes, truth: dict[str, Any], inputs: str) -> None:
        value: Any = {"b64": b64(picture)}
        if "list" in inputs:
            value = [value, value]
        if "named" in inputs:
            value = {"images": value}
        reply = httpx.post(proxy.predict_url, json={"signature_name": "serving_default", "inputs": value})
        assert reply.status_code == 200, reply.text
        outputs = reply.json()["outputs"]
        count = 2 if "list" in inputs else 1
        assert outputs["label"] == [truth["label"]] * count
        assert outputs["score"] == pytest.approx([truth["score"]] * count)
        assert "Model-Version" in reply.headers

    def test_columns_of_pixels(self, proxy: Proxy) -> None:
        pixels = np.asarray(draw(32, 32))
        rows = httpx.post(proxy.predict_url, json={"instances": [pixels.tolist()]}).json()["predictions"]
        outputs = httpx.post(proxy.predict_url, json={"inputs": [pixels.tolist()]}).json()["outputs"]
        assert outputs["score"] == [rows[0]["score"]]

    def test_columns_may_be_queued(self, proxy: Proxy, picture: bytes, truth: dict[str, Any]) -> None:
        reply = httpx.post(
            proxy.predict_url,
            json={"inputs": [{"b64": b64(picture)}]},
            headers={"Prefer": "respond-async, wait=20"},
            timeout=30,
        )
        assert reply.status_code == 200
        assert reply.json()["predictions"][0]["label"] == truth["label"]

    @pytest.mark.parametrize("inputs", [{}, {"a": [], "b": []}, "text", 7, []])
    def test_columns_without_images_are_400(self, proxy: Proxy, inputs: Any) -> None:
        reply = httpx.post(proxy.predict_url, json={"inputs": inputs})
        assert reply.status_code == 400
        assert reply.json().keys() == {"error"}


def test_pixels_of_every_kind_come_out_as_they_went_in() -> None:
    """Against Pillow, and numpy's own rounding: halves go to the even neighbour."""
    pixels = np.array([[[0, 127, 255], [1, 2, 3]]], "uint8")
    for kind, scale in (("uint8", 1), ("float32", 1), ("float32", 1 / 255), ("float64", 1 / 255)):
        sent = (pixels * scale).astype(kind).tobytes()
        tiff = raw_pixels.to_tiff(sent, PixelFormat.parse("1x2x3", kind), 100)
        image = Image.open(io.BytesIO(tiff))
        assert (image.mode, image.size) == ("RGB", (2, 1))
        assert np.asarray(image).tolist() == pixels.tolist()


def test_model_without_a_name_is_the_predictors_first_or_the_last_asked_for(
    postgres: str, tmp_path: Any, picture: bytes
) -> None:
    document = {"data": base64.b64encode(picture).decode()}
    port = free_port()
    with cloned_database(postgres) as url:
        with (
            running_proxy(tmp_path / "1", url, f"http://127.0.0.1:{port}") as proxy,
        ):
            assert post(proxy, "/inference/image", json=document).status_code == 503
            with StubPredictor(answers(), port):
                identifier = post(proxy, "/inference/image", json=document).json()["uuid"]
                assert proxy.prediction(identifier, wait=10)["model"] == "stub"
        with running_proxy(tmp_path / "2", url, f"http://127.0.0.1:{port}") as proxy:
            identifier = post(proxy, "/inference/image", json=document).json()["uuid"]
            assert proxy.prediction(identifier)["model"] == "stub"
