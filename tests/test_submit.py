"""`model-server submit`, the real command: on the whole system, and against servers that misbehave."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import database_folder
from pictures import draw, encode
from scripted_server import Scripted, closed_url, scripted
from system import COMMAND, System, running_system
from terminal import run_on_terminal

SUCCEEDED = {"id": "1", "status": "succeeded", "predictions": []}
QUEUED = {"id": "1", "status": "queued"}


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with database_folder() as folder, running_system(folder) as running:
        yield running


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with six images, all different."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encode(draw(100 + number, 80), "PNG"))
    return folder


def submit(url: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "submit", "--url", url, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def lines(finished: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in finished.stdout.splitlines()]


def names(finished: subprocess.CompletedProcess[str]) -> list[str]:
    return [Path(line["file"]).name for line in lines(finished)]


def test_folder_goes_through_the_queue_in_order(system: System, photos: Path) -> None:
    finished = submit(system.url, "--in-order", photos)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert names(finished) == [f"{number}.png" for number in range(6)]
    for line in lines(finished):
        direct = httpx.post(
            system.predict_url, content=Path(line["file"]).read_bytes(), headers={"Content-Type": "image/png"}
        )
        assert (line["status"], line["predictions"]) == ("succeeded", direct.json()["predictions"])


def test_each_result_comes_once_in_the_order_of_completion(system: System, photos: Path) -> None:
    finished = submit(system.url, photos, photos / "0.png")
    assert finished.returncode == 0
    assert sorted(names(finished)) == ["0.png", *(f"{number}.png" for number in range(6))]
    assert len({line["id"] for line in lines(finished)}) == 7


def test_without_waiting_what_was_accepted_is_printed(system: System, photos: Path) -> None:
    finished = submit(system.url, "--no-wait", photos)
    assert finished.returncode == 0
    assert len(lines(finished)) == 6
    for line in lines(finished):
        resource = httpx.get(f"{system.url}/v1/predictions/{line['id']}", headers={"Prefer": "wait=20"}).json()
        assert resource["status"] == "succeeded"


def test_refused_broken_and_missing_files_leave_the_others_alone(system: System, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff but no picture")
    given = [
        photos / "1.png",
        tmp_path / "notes.txt",
        tmp_path / "broken.jpg",
        tmp_path / "absent.png",
        photos / "2.png",
    ]
    finished = submit(system.url, "--in-order", *given)
    assert finished.returncode == 1
    assert finished.stderr == "3 of 5 have no result.\n"
    assert [line["status"] for line in lines(finished)] == ["succeeded", "failed", "failed", "failed", "succeeded"]
    for line in lines(finished)[1:4]:
        assert line["error"]["message"].endswith(".")


def test_unknown_model_is_named(system: System, photos: Path) -> None:
    finished = submit(system.url, "--model", "absent", photos)
    assert finished.returncode == 1
    assert "absent" in finished.stderr + finished.stdout


def test_server_that_dies_meanwhile_loses_and_doubles_nothing(system: System, tmp_path: Path) -> None:
    before = {row["id"] for row in everything(system)}
    given = [tmp_path / f"{number}.png" for number in range(80)]
    for number, file in enumerate(given):
        file.write_bytes(encode(draw(600 + number, 400), "PNG"))
    command = [COMMAND, "submit", "--url", system.url, "--in-order", *map(str, given)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        output = running.stdout.readline()
        queue_proxy = system.service("queue-proxy")
        assert queue_proxy
        queue_proxy.kill()
        assert running.poll() is None, "the command ended before the kill: it proves nothing"
        output += running.stdout.read()
    system.wait_until_ready()
    results = [json.loads(line) for line in output.splitlines()]
    assert running.returncode == 0
    assert [result["file"] for result in results] == [str(file) for file in given]
    assert {result["status"] for result in results} == {"succeeded"}
    assert {row["id"] for row in everything(system)} - before == {result["id"] for result in results}


def everything(system: System) -> Iterator[dict[str, Any]]:
    cursor = ""
    while True:
        page = httpx.get(
            f"{system.url}/v1/predictions", params={"limit": 100, **({"cursor": cursor} if cursor else {})}
        ).json()
        yield from page["predictions"]
        cursor = page.get("next_cursor") or ""
        if not cursor:
            return


@pytest.mark.parametrize(("count", "shown"), [(1, False), (2, True)])
def test_progress_is_shown_on_a_terminal_for_several_images(
    system: System, photos: Path, count: int, shown: bool
) -> None:
    command = [COMMAND, "submit", "--url", system.url, *[photos / "0.png"] * count]
    output, seen = run_on_terminal(command)
    assert (b"Submitting" in seen) is shown
    assert output.count(b"succeeded") == count


# --- servers that misbehave ---


def answer(status: int, document: object, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(document).encode()


BUSY = answer(503, {"error": "The queue is full."}, Retry_After="0")
ACCEPTED, DONE = answer(202, QUEUED), answer(200, SUCCEEDED)


def test_lost_and_busy_attempts_are_repeated_with_the_same_key(photos: Path) -> None:
    with scripted(BUSY, None, BUSY, ACCEPTED, None, BUSY, DONE) as (url, handler):
        finished = submit(url, "--model", "m", photos / "0.png")
    assert finished.returncode == 0, finished.stderr
    assert lines(finished) == [{"file": str(photos / "0.png"), **SUCCEEDED}]
    sent = [key for method, _, key in handler.requests if method == "POST"]
    assert len(sent) == 4
    assert len(set(sent)) == 1
    assert {path for method, path, _ in handler.requests if method == "GET"} == {"/v1/predictions/1"}


def test_what_was_accepted_is_printed_where_the_server_stays_away(photos: Path) -> None:
    with scripted(ACCEPTED, BUSY) as (url, handler):
        finished = submit(url, "--model", "m", "--in-order", photos / "0.png")
    assert finished.returncode == 1
    assert lines(finished) == [{"file": str(photos / "0.png"), **QUEUED}]
    assert finished.stderr == "model-server: The queue is full.\n"
    assert len(handler.requests) == 11


def test_server_without_a_queue_is_recognised(photos: Path) -> None:
    with scripted(answer(200, {"predictions": []})) as (url, _):
        finished = submit(url, "--model", "m", photos / "0.png")
    assert finished.returncode == 1
    assert finished.stderr == f"model-server: {url} has no queue: it does not answer with a prediction.\n"


def test_wrong_address_is_reported_at_once(photos: Path) -> None:
    url = closed_url()
    finished = submit(url, photos)
    assert finished.returncode == 1
    assert finished.stderr == f"model-server: {url} cannot be reached: Connection refused.\n"


def test_uploads_are_bounded(photos: Path) -> None:
    most = busy = 0
    lock = threading.Lock()

    class Slow(Scripted):
        def do_POST(self) -> None:  # noqa: N802 - the name is http.server's
            nonlocal most, busy
            with lock:
                busy += 1
                most = max(most, busy)
            time.sleep(0.05)
            with lock:
                busy -= 1
            self.answer()

    with scripted(DONE, handler=Slow) as (url, _):
        finished = submit(url, "--model", "m", "--parallel", 3, *[photos] * 5)
    assert len(lines(finished)) == 30
    assert most == 3


def test_ctrl_c_ends_it_soon(photos: Path) -> None:
    with scripted(None) as (url, _):
        command = [COMMAND, "submit", "--url", url, "--model", "m", photos / "0.png"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            time.sleep(1.5)
            running.send_signal(signal.SIGINT)
            assert running.wait(5) == 1
