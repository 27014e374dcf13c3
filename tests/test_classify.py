"""`model-server classify`, the real command: alone, against a real server, and against servers that misbehave."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest

from conftest import Server, environment_with
from pictures import draw, encode
from scripted_server import HANGS_UP, closed_url, scripted
from system import COMMAND
from terminal import run_on_terminal

PREDICTION = {"label": "cat", "index": 3, "score": 0.75, "top": [{"label": "cat", "index": 3, "score": 0.75}]}


def classify(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "classify", *map(str, arguments)]
    return subprocess.run(
        command, env=environment_with({}) | environment, capture_output=True, text=True, timeout=60, check=False
    )


def complaints(finished: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines on standard error, less what LiteRT writes there by itself."""
    return [line for line in finished.stderr.splitlines() if not line.startswith("INFO:")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three images at different depths, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "b" / "deep").mkdir(parents=True)
    (folder / "a.png").write_bytes(encode(draw(), "PNG"))
    (folder / "b" / "c.JPG").write_bytes(encode(draw(90, 300)))
    (folder / "b" / "deep" / "d.webp").write_bytes(encode(draw(64, 64), "WEBP"))
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module", params=["in process", "server"])
def where(request: pytest.FixtureRequest) -> list[str]:
    """Return the options for each of the two ways, which have to behave alike."""
    return ["--url", request.getfixturevalue("server").url] if request.param == "server" else []


def test_folder_is_searched_for_images_at_every_depth(where: list[str], photos: Path) -> None:
    finished = classify(*where, "--csv", photos)
    assert finished.returncode == 0, finished.stderr
    rows = list(csv.DictReader(finished.stdout.splitlines()))
    assert [Path(row["file"]).relative_to(photos).as_posix() for row in rows] == ["a.png", "b/c.JPG", "b/deep/d.webp"]
    for row in rows:
        assert row.keys() == {"file", "label", "index", "score", "model_version"}
        assert 0 < float(row["score"]) <= 1
        assert row["label"]
        assert row["index"].isdigit()
        assert row["model_version"]


def test_results_come_in_the_order_of_the_arguments(where: list[str], photos: Path) -> None:
    given = [photos / "b" / "c.JPG", photos / "a.png"] * 6
    finished = classify(*where, "--json", *given)
    assert [json.loads(line)["file"] for line in finished.stdout.splitlines()] == [str(file) for file in given]


def test_server_and_process_give_the_same_answer(server: Server, photos: Path) -> None:
    alone = classify("--json", "--top", 3, photos)
    asked = classify("--json", "--top", 3, "--url", server.url + "/", "--model", server.model, photos)
    assert alone.stdout == asked.stdout
    first = json.loads(alone.stdout.splitlines()[0])
    assert first.keys() == {"file", "predictions", "model_version"}
    (prediction,) = first["predictions"]
    assert prediction.keys() == {"label", "index", "score", "top"}
    assert len(prediction["top"]) == 3
    assert prediction["top"][0] == {key: prediction[key] for key in ("label", "index", "score")}


def test_people_read_file_class_and_percentage(where: list[str], photos: Path) -> None:
    finished = classify(*where, "--top", 2, photos / "a.png")
    name, _, classes = finished.stdout.rstrip("\n").rpartition("a.png: ")
    assert name == f"{photos}/"
    assert classes.count(" | ") == 1
    assert all(part.endswith("%") for part in classes.split(" | "))
    assert "\x1b" not in finished.stdout, "no colours where nobody looks"


def test_bad_file_is_reported_and_the_others_are_classified(where: list[str], photos: Path, tmp_path: Path) -> None:
    finished = classify(*where, "--csv", photos / "notes.txt", photos / "a.png", tmp_path / "absent.png", tmp_path)
    assert finished.returncode == 1
    assert [row["file"] for row in csv.DictReader(finished.stdout.splitlines())] == [str(photos / "a.png")]
    no_image, absent, empty, count = complaints(finished)
    assert no_image == f"{photos}/notes.txt: The data is not an image; JPEG, PNG, WebP, BMP, GIF and TIFF are read."
    assert absent == f"{tmp_path}/absent.png: The file cannot be read: No such file or directory."
    assert empty.startswith(f"{tmp_path}: The folder holds no image")
    assert count == "3 of 4 could not be classified."


def test_image_over_the_limit_is_reported(server: Server, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(17 * 1024 * 1024))
    asked = classify("--url", server.url, large)
    assert asked.returncode == 1
    assert "at most 16,777,216 are allowed." in asked.stderr
    alone = classify(large)
    assert alone.returncode == 1
    assert "at most 12,582,912 are allowed." in alone.stderr


def test_unknown_model_names_the_one_there_is(server: Server, photos: Path) -> None:
    finished = classify("--url", server.url, "--model", "absent", photos)
    assert finished.returncode == 1
    assert complaints(finished) == [f"model-server: There is no model 'absent'; this server has {server.model!r}."]


def test_refused_connection_names_the_url(photos: Path) -> None:
    url = closed_url()
    finished = classify("--url", url, photos)
    assert finished.returncode == 1
    assert finished.stderr == f"model-server: {url} cannot be reached: Connection refused.\n"


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "http://[::1]:99999", "http://host?q=1"])
def test_what_is_no_url_is_refused(url: str, photos: Path) -> None:
    finished = classify("--url", url, photos)
    assert finished.returncode == 1
    assert (
        finished.stderr == f"model-server: {url!r} is not the URL of a server; one looks like http://127.0.0.1:8080.\n"
    )


@pytest.mark.parametrize(
    "options",
    [["--url", "http://host", "--model-dir", "x"], ["--url", "http://host", "--runtime", "litert"], ["--model", "x"]],
)
def test_options_that_would_have_no_effect_are_refused(options: list[str], photos: Path) -> None:
    finished = classify(*options, photos)
    assert finished.returncode == 2
    assert "--model" in finished.stderr


def test_model_comes_from_the_option_or_the_environment(photos: Path, tmp_path: Path) -> None:
    for finished in (classify("--model-dir", tmp_path, photos), classify(photos, MODEL_SERVER_MODEL_DIR=str(tmp_path))):
        assert finished.returncode == 1
        assert finished.stderr.startswith(f"model-server: {tmp_path} is no model: ")
    wrong = classify(photos, MODEL_SERVER_RUNTIME="onnx")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("model-server: MODEL_SERVER_RUNTIME='onnx' is not valid: ")


@pytest.mark.parametrize(("count", "shown"), [(1, False), (2, True)])
def test_progress_is_shown_on_a_terminal_for_several_images(photos: Path, count: int, shown: bool) -> None:
    output, seen = run_on_terminal([COMMAND, "classify", "--csv", *[photos / "a.png"] * count])
    assert (b"Classifying" in seen) is shown
    assert output.count(b"a.png") == count


# --- servers that misbehave ---


GOOD = (200, {"Model-Version": "7"}, json.dumps({"predictions": [PREDICTION]}).encode())
BUSY = (503, {"Retry-After": "0"}, b'{"error": "The queue is full."}')


def test_busy_server_is_asked_again(photos: Path) -> None:
    with scripted(BUSY, BUSY, GOOD) as (url, handler):
        finished = classify("--url", url, "--model", "m", "--csv", photos / "a.png")
    assert finished.stdout.splitlines()[1] == f"{photos}/a.png,cat,3,0.750000,7"
    assert len(handler.requests) == 3


def test_server_that_stays_busy_is_not_asked_for_ever(photos: Path) -> None:
    with scripted(BUSY) as (url, handler):
        finished = classify("--url", url, "--model", "m", photos / "a.png")
    assert finished.returncode == 1
    assert finished.stderr == "model-server: The queue is full.\n"
    assert len(handler.requests) == 5


def test_connection_that_the_server_dropped_is_opened_again(photos: Path) -> None:
    dropped = (200, HANGS_UP, GOOD[2])
    with scripted(dropped) as (url, _):
        finished = classify("--url", url, "--model", "m", "--csv", *[photos / "a.png"] * 12)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("cat") == 12


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        ((200, {}, b"<html>"), "{url} does not answer as a KServe model server."),
        ((200, {}, b'{"models": ["a", "b"]}'), "{url} has 2 models; choose by --model: a, b."),
        ((404, {}, b"<html>"), "{url} answered with status 404."),
    ],
)
def test_server_that_is_something_else_is_recognised(
    photos: Path, reply: tuple[int, dict[str, str], bytes], sentence: str
) -> None:
    with scripted(reply) as (url, _):
        finished = classify("--url", url, photos)
    assert finished.returncode == 1
    assert finished.stderr == f"model-server: {sentence.format(url=url)}\n"


def test_model_that_does_not_classify_is_recognised(photos: Path) -> None:
    with scripted((200, {}, b'{"predictions": [[0.1, 0.9]]}')) as (url, _):
        finished = classify("--url", url, "--model", "m", photos)
    assert finished.returncode == 1
    assert finished.stderr == f"model-server: The model m at {url} does not answer with classes.\n"
