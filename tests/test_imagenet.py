"""A real ImageNet network, float Keras and uint8 TFLite, served by every runtime: right, and of one mind."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import httpx
import pytest

from conftest import StartServer

ARTIFACTS = {
    "litert": ("tf2_mobilenet_v2_1.0_224_ptq.tflite", "model.tflite", "imagenet_labels_1001.txt"),
    "openvino": ("tf2_mobilenet_v2_1.0_224_ptq.tflite", "model.tflite", "imagenet_labels_1001.txt"),
    "tensorflow": ("mobilenet_v2_1.0_224_dequant.keras", "model.keras", "imagenet_labels_1000.txt"),
}


def plain_model(imagenet: Path, folder: Path, runtime: str) -> Path:
    artifact, name, labels = ARTIFACTS[runtime]
    folder.mkdir()
    shutil.copy(imagenet / artifact, folder / name)
    shutil.copy(imagenet / labels, folder / "labels.txt")
    return folder


def served_answers(imagenet: Path, model: Path, runtime: str, start_server: StartServer) -> list[dict]:
    with (imagenet / "photos.tsv").open() as file:
        photos = list(csv.DictReader(file, delimiter="\t"))
    background = 1 if "1001" in ARTIFACTS[runtime][2] else 0
    answers = []
    with start_server(model_dir=model, runtime=runtime) as server, httpx.Client(timeout=60) as client:
        for photo in photos:
            content = (imagenet / "photos" / photo["file"]).read_bytes()
            reply = client.post(server.predict_url, content=content, headers={"Content-Type": "image/*"})
            (prediction,) = reply.raise_for_status().json()["predictions"]
            index = prediction["index"] - background
            answers.append({"index": index, "right": str(index) in photo["accept"].split(","), **photo})
    return answers


@pytest.fixture(scope="module")
def answers(imagenet, tmp_path_factory, start_server) -> dict[str, list[dict]]:
    folder = tmp_path_factory.mktemp("models")
    return {
        runtime: served_answers(imagenet, plain_model(imagenet, folder / runtime, runtime), runtime, start_server)
        for runtime in ARTIFACTS
    }


@pytest.mark.parametrize("runtime", ARTIFACTS)
def test_at_least_17_of_19_photographs_are_right(answers, runtime):
    wrong = [(answer["file"], answer["index"]) for answer in answers[runtime] if not answer["right"]]
    assert len(answers[runtime]) == 19
    assert len(wrong) <= 2, wrong


def test_float_and_quantised_network_agree(answers):
    """They are one network: a photograph may part them only where both are unsure which kind of cat it is."""
    for other in ("openvino", "tensorflow"):
        differing = [
            (ours["file"], ours["index"], theirs["index"])
            for ours, theirs in zip(answers["litert"], answers[other], strict=True)
            if ours["index"] != theirs["index"] and not (ours["right"] and theirs["right"])
        ]
        assert len(differing) <= 1, (other, differing)
