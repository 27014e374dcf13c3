"""V1, V2 JSON, V2 binary and gRPC, by raw HTTP and by the clients that people use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from conftest import DEFAULT_BUNDLE, Server
from pictures import b64, draw, encode

PHOTO = encode(draw())
LABELS = (DEFAULT_BUNDLE / "labels.txt").read_text().splitlines()


def v1_b64(client: httpx.Client, server: Server, data: bytes, **parameters: object) -> dict:
    body = {"instances": [{"b64": b64(data)}], "parameters": parameters}
    return client.post(server.predict_url, json=body).raise_for_status().json()["predictions"][0]


def scores_by_v1(client: httpx.Client, server: Server) -> np.ndarray:
    scores = np.empty(len(LABELS), np.float32)
    for entry in v1_b64(client, server, PHOTO, top_k=len(LABELS))["top"]:
        scores[entry["index"]] = entry["score"]
    return scores


def v2_bytes(data: bytes = PHOTO) -> dict:
    return {"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(data)]}


def scores_by_v2_json(client: httpx.Client, server: Server) -> np.ndarray:
    reply = client.post(server.infer_url, json={"inputs": [v2_bytes()]}).raise_for_status().json()
    return np.array(outputs_of(reply)["scores"]["data"], np.float32)


def outputs_of(reply: dict) -> dict[str, dict]:
    return {output["name"]: output for output in reply["outputs"]}


def scores_by_triton_http(server: Server, *, binary: bool) -> np.ndarray:
    tensor = tritonclient.http.InferInput("image", [1], "BYTES")
    content = PHOTO if binary else b64(PHOTO).encode()
    tensor.set_data_from_numpy(np.array([content], dtype=np.object_), binary_data=binary)
    with tritonclient.http.InferenceServerClient(server.url.removeprefix("http://")) as triton:
        return triton.infer(server.model, [tensor]).as_numpy("scores")[0]


def scores_by_triton_grpc(server: Server) -> np.ndarray:
    tensor = tritonclient.grpc.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([PHOTO], dtype=np.object_))
    with tritonclient.grpc.InferenceServerClient(server.grpc) as triton:
        return triton.infer(server.model, [tensor]).as_numpy("scores")[0]


@pytest.fixture(scope="module")
def by_kserve_client(server, tmp_path_factory):
    photo = tmp_path_factory.mktemp("photo") / "photo.jpg"
    photo.write_bytes(PHOTO)
    command = [
        sys.executable,
        str(Path(__file__).parent / "kserve_client.py"),
        server.url,
        server.model,
        str(photo),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_protocol_gives_the_same_scores(client, server, by_kserve_client):
    expected = scores_by_v1(client, server)
    assert expected.sum() == pytest.approx(1, abs=0.02)
    for name, scores in {
        "V2 JSON": scores_by_v2_json(client, server),
        "tritonclient HTTP, binary": scores_by_triton_http(server, binary=True),
        "tritonclient HTTP, JSON": scores_by_triton_http(server, binary=False),
        "tritonclient gRPC": scores_by_triton_grpc(server),
        "kserve client V2": by_kserve_client["scores"],
    }.items():
        np.testing.assert_allclose(scores, expected, atol=1e-6, err_msg=name)


def test_a_raw_image_body_and_every_wrapper_give_the_same_prediction(client, server):
    expected = v1_b64(client, server, PHOTO)
    raw = client.post(server.predict_url, content=PHOTO, headers={"Content-Type": "image/jpeg"})
    assert raw.json() == {"predictions": [expected]}
    data = {"b64": b64(PHOTO)}
    items = [data, {"image": data}, {"image_bytes": data}, {"b64": "data:image/jpeg;base64," + b64(PHOTO)}]
    reply = client.post(server.predict_url, json={"instances": items}).json()
    assert reply["predictions"] == [expected] * 4


def test_v1_answers_in_the_order_of_the_instances_with_ranked_classes(client, server):
    others = [encode(draw().rotate(angle)) for angle in (0, 90, 180)]
    one_by_one = [v1_b64(client, server, data, top_k=3) for data in others]
    body = {"instances": [{"b64": b64(data)} for data in others], "parameters": {"top_k": 3}}
    reply = client.post(server.predict_url, json=body)
    assert reply.json()["predictions"] == one_by_one
    assert reply.headers["Model-Version"]
    best = one_by_one[0]
    assert len(best["top"]) == 3
    assert {key: best[key] for key in ("label", "index", "score")} == best["top"][0]
    assert best["top"] == sorted(best["top"], key=lambda entry: -entry["score"])
    assert all(LABELS[entry["index"]] == entry["label"] for entry in best["top"])


def test_pixel_arrays_answer_as_the_encoded_picture_does(client, server):
    pixels = np.asarray(draw(64, 48))
    lossless = v1_b64(client, server, encode(draw(64, 48), "PNG"))
    arrays = [pixels.tolist(), pixels.astype(float).tolist()]
    predictions = client.post(server.predict_url, json={"instances": arrays}).json()["predictions"]
    assert predictions == [lossless] * 2
    for datatype, values in (("UINT8", pixels), ("FP32", pixels.astype(np.float32))):
        tensor = tritonclient.http.InferInput("image", [1, 48, 64, 3], datatype)
        tensor.set_data_from_numpy(values[None])
        with tritonclient.http.InferenceServerClient(server.url.removeprefix("http://")) as triton:
            assert triton.infer(server.model, [tensor]).as_numpy("score")[0] == pytest.approx(lossless["score"])
        for data in (values.ravel().tolist(), values[None].tolist()):
            body = {"inputs": [{"name": "image", "shape": [1, 48, 64, 3], "datatype": datatype, "data": data}]}
            reply = client.post(server.infer_url, json=body).json()
            assert outputs_of(reply)["label"]["data"] == [lossless["label"]]


def test_grpc_takes_pixels_and_filters_outputs(server):
    pixels = np.asarray(draw(64, 48))[None]
    tensor = tritonclient.grpc.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    wanted = [tritonclient.grpc.InferRequestedOutput("label")]
    with tritonclient.grpc.InferenceServerClient(server.grpc) as triton:
        reply = triton.infer(server.model, [tensor], outputs=wanted, request_id="grpc-7")
        assert reply.as_numpy("label")[0].decode() in LABELS
        assert reply.as_numpy("scores") is None
        assert reply.get_response().id == "grpc-7"
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready(server.model)
        assert {tensor.name for tensor in triton.get_model_metadata(server.model).outputs} == {
            "label",
            "score",
            "scores",
        }
        (version,) = triton.get_model_metadata(server.model).versions
        for ask in (triton.is_model_ready, triton.get_model_metadata):
            ask(server.model, version)
            with pytest.raises(tritonclient.grpc.InferenceServerException, match="no version"):
                ask(server.model, "999")


def test_v2_echoes_the_id_and_sends_the_requested_outputs_as_asked(client, server):
    body = {"id": "seven", "inputs": [v2_bytes()], "outputs": [{"name": "score"}, {"name": "label"}]}
    reply = client.post(server.infer_url, json=body).json()
    assert reply["id"] == "seven"
    assert [output["name"] for output in reply["outputs"]] == ["score", "label"]
    assert "id" not in client.post(server.infer_url, json={"inputs": [v2_bytes()]}).json()
    mixed = {
        "inputs": [v2_bytes()],
        "outputs": [{"name": "score", "parameters": {"binary_data": True}}, {"name": "label"}],
    }
    reply = client.post(server.infer_url, json=mixed)
    end = int(reply.headers["Inference-Header-Content-Length"])
    document = json.loads(reply.content[:end])
    assert len(reply.content) - end == document["outputs"][0]["parameters"]["binary_data_size"] == 4
    assert document["outputs"][1]["data"][0] in LABELS


def test_metadata_names_every_tensor_and_the_version(client, server):
    reply = client.get(f"{server.url}/v2/models/{server.model}").json()
    version = client.post(server.predict_url, content=PHOTO, headers={"Content-Type": "image/jpeg"}).headers[
        "Model-Version"
    ]
    assert (reply["name"], reply["versions"]) == (server.model, [version])
    assert [tensor["name"] for tensor in reply["inputs"]] == ["image"]
    assert {tensor["name"]: tensor["shape"] for tensor in reply["outputs"]} == {
        "label": [-1],
        "score": [-1],
        "scores": [-1, len(LABELS)],
    }
    versioned = f"{server.url}/v2/models/{server.model}/versions/{version}"
    assert client.get(versioned).json() == reply
    assert client.post(f"{versioned}/infer", json={"inputs": [v2_bytes()]}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/other:predict"),
        ("GET", "/v1/models/other"),
        ("POST", "/v2/models/other/infer"),
        ("GET", "/v2/models/other"),
        ("GET", "/v2/models/other/ready"),
        ("POST", "/v2/models/{model}/versions/none/infer"),
        ("GET", "/v2/models/{model}/versions/none/ready"),
        ("GET", "/no/such/route"),
    ],
)
def test_what_does_not_exist_is_404_in_kserves_shape(client, server, method, path):
    reply = client.request(method, server.url + path.format(model=server.model), json={})
    assert reply.status_code == 404
    assert list(reply.json()) == ["error"]


def test_nobody_can_unload_the_model(client, server):
    for action in ("unload", "load"):
        reply = client.post(f"{server.url}/v2/repository/models/{server.model}/{action}")
        assert (reply.status_code, list(reply.json())) == (403, ["error"])
    with tritonclient.grpc.InferenceServerClient(server.grpc) as triton:
        with pytest.raises(tritonclient.grpc.InferenceServerException, match="turned off"):
            triton.unload_model(server.model)
        assert triton.is_model_ready(server.model)


def test_json_with_a_charset_is_json(client, server):
    body = json.dumps({"instances": [{"b64": b64(PHOTO)}]})
    reply = client.post(server.predict_url, content=body, headers={"Content-Type": "application/json; charset=utf-8"})
    assert reply.status_code == 200
    reply = client.post(server.predict_url, content=body, headers={"Content-Type": "application/json; charset=utf-16"})
    assert (reply.status_code, list(reply.json())) == (415, ["error"])


def test_the_kserve_client_works_as_it_comes(client, server, by_kserve_client):
    assert by_kserve_client["ready"] is True
    assert by_kserve_client["predictions"] == [v1_b64(client, server, PHOTO)]


def test_the_request_id_comes_back_or_is_made(client, server):
    headers = {"Content-Type": "image/jpeg", "X-Request-Id": "order-66"}
    assert client.post(server.predict_url, content=PHOTO, headers=headers).headers["X-Request-Id"] == "order-66"
    headers["X-Request-Id"] = "x" * 200
    made = client.post(server.predict_url, content=b"", headers=headers).headers["X-Request-Id"]
    assert made
    assert made != headers["X-Request-Id"]


def test_one_access_line_per_request_and_none_for_probes(client, start_server):
    with start_server(log_format="json") as server:
        client.get(f"{server.url}/v2/health/live")
        client.post(
            server.predict_url,
            content=PHOTO,
            headers={"Content-Type": "image/jpeg", "X-Request-Id": "line-1"},
        )
        client.post(
            server.predict_url,
            content=b"[",
            headers={"Content-Type": "application/json", "X-Request-Id": "line-2"},
        )
        server.stop()
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    access = [line for line in lines if line["logger"] == "model_server.access"]
    assert not [line for line in access if "health" in line["message"]]
    predictions = [line for line in access if ":predict" in line["message"]]
    assert [(line["request_id"], line["status"]) for line in predictions] == [
        ("line-1", 200),
        ("line-2", 400),
    ]
    assert all("exception" not in line for line in lines)


def test_importing_the_sdk_leaves_our_own_command_line_alone():
    """The SDK parses sys.argv on import; an option of ours must not end the process there."""
    code = "import sys; sys.argv = ['x', '--workers', 'many', '--http_port=no']; import model_server.predictor.sdk"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
