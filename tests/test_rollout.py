"""`model-server rollout` on a running system: another model into service under load, a canary, back, and refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from conftest import DEFAULT_BUNDLE, database_folder, environment_with
from pictures import draw, encode
from queue_server import constant_load
from system import COMMAND, System, alive, running_system
from terminal import run_on_terminal
from test_object_storage import BUCKET, S3, s3  # noqa: F401 - a fixture among them
from test_split import wait_for

IMAGE = {"Content-Type": "image/jpeg"}
PHOTO = encode(draw())


def bundle_of(folder: Path, version: str, **changed: object) -> Path:
    shutil.copytree(DEFAULT_BUNDLE, folder)
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**described, "version": version, **changed}))
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the bundles `2`, `3`, and `broken`, whose golden images come out differently."""
    folder = tmp_path_factory.mktemp("bundles")
    bundle_of(folder / "2", "2", name="renamed")
    bundle_of(folder / "3", "3")
    described = json.loads((DEFAULT_BUNDLE / "model.json").read_text())
    input_ = described["input"] | {"offset": [0.0, 0.0, 0.0], "scale": [0.001, 0.001, 0.001]}
    bundle_of(folder / "broken", "4", input=input_)
    return folder


@pytest.fixture
def system() -> Iterator[System]:
    with database_folder() as folder, running_system(folder, trusted_proxies=1) as running:
        yield running


def command(system: System, *arguments: object) -> list[str]:
    return [str(part) for part in (COMMAND, *arguments, "--data-dir", system.data)]


def run(system: System, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(system, *arguments),
        env=environment_with({}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def version(system: System, caller: str = "10.0.0.1", content: bytes = PHOTO) -> str:
    reply = httpx.post(system.predict_url, content=content, headers=IMAGE | {"X-Forwarded-For": caller}, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.headers["Model-Version"]


def predictors(system: System) -> list[psutil.Process]:
    children = alive(psutil.Process(system.process.pid).children())
    return [child for child in children if child.cmdline()[-1:] == ["predictor"]]


def test_rollout_and_rollback_under_constant_load_lose_no_request(system: System, bundles: Path) -> None:
    """Under the name that callers know, and the port; the share of recent images that keep their class is printed."""
    name = system.model
    with constant_load(system.predict_url, 3, queued={0}) as seen:
        while len(seen) < 30:
            time.sleep(0.05)
        done = run(system, "rollout", bundles / "2")
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert f"{name} 2 serves all callers, after 1." in done.stdout
        assert "recent images keep their class (100.0 %)." in done.stdout, "the same model under another version"
        until = len(seen)
        while len(seen) < until + 20:
            time.sleep(0.05)
        back = run(system, "rollback")
        assert back.stdout == f"{name} 1 serves all callers again, after 2.\n", back.stderr
    counts = Counter(seen)
    assert counts.keys() == {"1", "2"}, counts
    assert set(seen[until + 3 : until + 20]) == {"2"}
    assert version(system) == "1"
    assert httpx.get(f"{system.predictor_url}/v2/models/{name}").headers["Model-Version"] == "1"
    assert len(predictors(system)) == 1
    assert run(system, "rollback").returncode == 1, "there is nothing before the first"


def test_a_bundle_that_fails_its_golden_check_never_takes_traffic(system: System, bundles: Path) -> None:
    with constant_load(system.predict_url, 2, queued={0}) as seen:
        refused = run(system, "rollout", bundles / "broken")
    assert refused.returncode == 1
    assert "Golden image" in refused.stderr
    assert refused.stdout == ""
    assert set(seen) == {"1"}
    assert len(predictors(system)) == 1
    assert "predictors" in (system.data / "predictors.json").name
    assert len(json.loads((system.data / "predictors.json").read_text())) == 1


@pytest.mark.parametrize("options", [(), ("--canary", 1)])
def test_a_model_that_the_door_does_not_come_to_is_taken_back(
    shared_system: System, bundles: Path, options: tuple[object, ...]
) -> None:
    """Loaded and right, and yet no caller would get it: the door hangs, as it might for any other reason."""
    proxy = shared_system.service("queue-proxy")
    assert proxy
    file = shared_system.data / "predictors.json"
    before = file.read_text()
    proxy.suspend()
    try:
        asked = command(shared_system, "rollout", bundles / "2", "--timeout", 60, *options)
        with subprocess.Popen(asked, env=environment_with({}), stderr=subprocess.PIPE, text=True) as process:
            wait_for(lambda: file.read_text() != before)
            wait_for(lambda: file.read_text() == before)
            proxy.resume()
            _, error = process.communicate(timeout=60)
    finally:
        proxy.resume()
    assert process.returncode == 1
    assert "cifar10 2 is taken back: asked through http://127.0.0.1:" in error
    assert "there is no answer" in error
    assert version(shared_system) == "1"
    assert len(predictors(shared_system)) == 1
    assert run(shared_system, "rollback").returncode == 1, "it was never in service"


@pytest.mark.parametrize(
    ("bundle", "sentence"),
    [("missing", "There is no folder"), (".", "is no model"), (DEFAULT_BUNDLE, "version is 1, that of the model")],
)
def test_what_cannot_be_rolled_out_is_refused_with_a_sentence(
    shared_system: System, bundles: Path, bundle: str, sentence: str
) -> None:
    refused = run(shared_system, "rollout", bundles / bundle)
    assert refused.returncode == 1
    assert sentence in refused.stderr
    assert version(shared_system) == "1"
    assert len(predictors(shared_system)) == 1


@pytest.fixture(scope="module")
def shared_system() -> Iterator[System]:
    """Return a system that serves version 1 before and after each test."""
    with database_folder() as folder, running_system(folder, trusted_proxies=1) as running:
        yield running


def test_a_model_that_disagrees_too_much_is_refused(shared_system: System, tmp_path: Path) -> None:
    """Its labels in another order: the golden images know nothing of it, the callers would."""
    asking = IMAGE | {"Prefer": "respond-async, wait=20"}
    for number in range(4):
        content = encode(draw(200 + number, 100))
        assert httpx.post(shared_system.predict_url, content=content, headers=asking, timeout=30).status_code == 200
    plain = tmp_path / "plain"
    plain.mkdir()
    shutil.copy(DEFAULT_BUNDLE / "model.tflite", plain)
    labels = (DEFAULT_BUNDLE / "labels.txt").read_text().split("\n")
    (plain / "labels.txt").write_text("\n".join(f"other-{label}" for label in labels if label) + "\n")
    refused = run(shared_system, "rollout", plain, "--min-agreement", 50)
    assert refused.returncode == 1
    assert "0 of " in refused.stderr
    assert "50 % are asked for" in refused.stderr
    assert version(shared_system) == "1"


def test_a_canary_gets_its_share_of_the_callers_each_of_whom_stays(shared_system: System, bundles: Path) -> None:
    callers = [f"10.1.0.{number}" for number in range(60)]
    tried = run(shared_system, "rollout", bundles / "2", "--canary", 30)
    assert tried.returncode == 0, tried.stderr
    assert "2 serves 30 % of the callers, 1 the others." in tried.stdout
    first = {caller: version(shared_system, caller) for caller in callers}
    counts = Counter(first.values())
    assert counts.keys() == {"1", "2"}
    assert 7 <= counts["2"] <= 29, "30 % of 60, give or take three standard deviations"
    assert {caller: version(shared_system, caller) for caller in callers} == first

    more = run(shared_system, "rollout", bundles / "2", "--canary", 60)
    assert more.returncode == 0, more.stderr
    assert len(predictors(shared_system)) == 2, "the canary that runs is the one that gets more"
    second = {caller: version(shared_system, caller) for caller in callers}
    assert all(second[caller] == "2" for caller in callers if first[caller] == "2"), "who is there stays there"

    refused = run(shared_system, "rollout", bundles / "broken", "--canary", 50)
    assert refused.returncode == 1
    assert {caller: version(shared_system, caller) for caller in callers} == second

    back = run(shared_system, "rollback")
    assert "1 serves all callers again; the canary has ended." in back.stdout
    assert {version(shared_system, caller) for caller in callers} == {"1"}
    assert len(predictors(shared_system)) == 1


def test_ctrl_c_before_the_switch_leaves_the_old_model(shared_system: System, bundles: Path) -> None:
    process = subprocess.Popen(
        command(shared_system, "rollout", bundles / "3"),
        env=environment_with({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while len(predictors(shared_system)) == 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, ""), error
    while len(predictors(shared_system)) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(predictors(shared_system)) == 1
    assert version(shared_system) == "1"


def test_only_the_owner_may_ask(shared_system: System) -> None:
    assert stat.S_IMODE((shared_system.data / "control").stat().st_mode) == 0o600
    assert stat.S_IMODE((shared_system.data / "predictors.json").stat().st_mode) == 0o600


def test_one_rollout_at_a_time(shared_system: System, bundles: Path) -> None:
    with subprocess.Popen(
        command(shared_system, "rollout", bundles / "3", "--canary", 1),
        env=environment_with({}),
        stdout=subprocess.DEVNULL,
    ) as first:
        while len(predictors(shared_system)) == 1:
            time.sleep(0.02)
        second = run(shared_system, "rollout", bundles / "2")
        assert second.returncode == 1
        assert "Another rollout is on its way" in second.stderr
        assert first.wait(60) == 0
    assert run(shared_system, "rollback").returncode == 0


def test_a_person_sees_each_step(shared_system: System, bundles: Path) -> None:
    out, seen = run_on_terminal(command(shared_system, "rollout", bundles / "3", "--canary", 5))
    assert b"checking its golden images" in seen
    assert b"Trying cifar10 3 on recent images" in seen
    assert b"3 serves 5 % of the callers" in out
    assert run(shared_system, "rollback").returncode == 0


def test_a_system_that_asks_for_tokens_needs_none_to_roll_out(bundles: Path) -> None:
    with database_folder() as folder, running_system(folder, mode="accounts") as system:
        done = run(system, "rollout", bundles / "2")
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert "2 serves all callers, after 1." in done.stdout
        assert httpx.get(f"{system.url}/v2/models/{system.model}").headers["Model-Version"] == "2"
        assert httpx.post(system.predict_url, content=PHOTO, headers=IMAGE).status_code == 401


def test_a_restart_serves_what_was_rolled_out(bundles: Path) -> None:
    """As long as it is started with the same bundle; another one begins anew."""
    with database_folder() as folder:
        with running_system(folder) as system:
            assert run(system, "rollout", bundles / "2").returncode == 0
        with running_system(folder) as system:
            assert version(system) == "2"
            assert "which was rolled out" in system.log.read_text()
            assert run(system, "rollback").stdout.endswith("1 serves all callers again, after 2.\n")
        with running_system(folder, model_dir=bundles / "3") as system:
            assert version(system) == "3"


def test_the_proxy_that_is_killed_comes_back_to_the_new_model(system: System, bundles: Path) -> None:
    assert run(system, "rollout", bundles / "2", "--canary", 99).returncode == 0
    proxy = system.service("queue-proxy")
    assert proxy
    os.kill(proxy.pid, signal.SIGKILL)
    system.wait_for_log("the queue-proxy was ended by SIGKILL")
    system.wait_until_ready()
    assert "2" in {version(system, f"10.2.0.{number}") for number in range(10)}


def test_nobody_to_ask_is_said(tmp_path: Path) -> None:
    asked = subprocess.run(
        [COMMAND, "rollout", "bundle", "--data-dir", tmp_path / "nowhere"],
        env=environment_with({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert asked.returncode == 1
    assert f"No `model-server up` works with the folder {tmp_path / 'nowhere'}" in asked.stderr


def put(url: str, folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            assert httpx.put(f"{url}/{file.relative_to(folder)}", content=file.read_bytes()).status_code == 200


def test_a_bundle_is_fetched_from_s3(s3: S3, bundles: Path) -> None:  # noqa: F811
    """And kept, as long as it can be gone back to."""
    put(f"{s3.url}/{BUCKET}/models/2", bundles / "2")
    with database_folder() as folder, running_system(folder) as system:
        done = run(system, "rollout", f"s3://{BUCKET}/models/2")
        assert done.returncode == 0, done.stderr
        assert version(system) == "2"
        assert len(list((system.data / "bundles").iterdir())) == 1
        nothing = run(system, "rollout", f"s3://{BUCKET}/models/9")
        assert nothing.returncode == 1
        assert f"There is nothing at s3://{BUCKET}/models/9" in nothing.stderr
        assert "cannot be read" in run(system, "rollout", "gopher://models/2").stderr
        assert version(system) == "2"
