"""`model-server up`, the real command: everything starts, what dies is started again, Ctrl-C ends it all."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest

from conftest import database_folder, environment_with
from model_server.store.embedded import embedded_postgres
from pictures import draw, encode
from system import COMMAND, END_SECONDS, System, alive, running_system, settings_for

PHOTO = encode(draw())
IMAGE = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with database_folder() as folder, running_system(folder) as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    with database_folder() as made:
        yield made


def up(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run `up` where it is expected to end by itself."""
    command = [COMMAND, "up", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_page_sync_and_async_answer_at_one_address(system: System) -> None:
    assert "text/html" in httpx.get(system.url).headers["Content-Type"]
    direct = httpx.post(system.predict_url, content=PHOTO, headers=IMAGE)
    queued = httpx.post(system.predict_url, content=PHOTO, headers=IMAGE | {"Prefer": "respond-async, wait=20"})
    assert (direct.status_code, queued.status_code) == (200, 200)
    assert queued.json()["predictions"] == direct.json()["predictions"]


def test_first_administrator_is_made_in_the_folder_of_the_running_system(system: System, tmp_path: Path) -> None:
    def create(folder: Path) -> subprocess.CompletedProcess[str]:
        command = [COMMAND, "user", "create", "--admin", "--email", "ada@example.com", "--data-dir", folder]
        return subprocess.run(command, input="correct horse\n", capture_output=True, text=True, check=False)

    assert create(system.data).returncode == 0
    form = {"username": "ada@example.com", "password": "correct horse"}
    token = httpx.post(f"{system.url}/login", data=form).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{system.url}/feedback/export", headers=headers).status_code == 200
    elsewhere = create(tmp_path)
    assert (elsewhere.returncode, "is not the folder" in elsewhere.stderr) == (2, True)


def test_curl_line_works_when_pasted(system: System) -> None:
    (line,) = re.findall(r"^  (curl .*)$", system.output.read_text(), re.MULTILINE)
    file = Path(next(word for word in shlex.split(line) if word.startswith("@"))[1:])
    if not file.exists():
        pytest.skip(f"the model has no golden image to name, only {file}")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30, check=True)
    assert '"predictions"' in done.stdout


def test_addresses_are_open_to_this_machine_alone(system: System) -> None:
    listening = {
        connection.laddr.ip
        for name in ("queue-proxy", "feedback", "predictor")
        for connection in (system.service(name) or pytest.fail(f"no {name}")).connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_no_page_elsewhere_reaches_a_service_by_a_name_of_its_own(system: System) -> None:
    for url in (f"{system.url}/", f"{system.feedback_url}/healthz", f"{system.predictor_url}/v1/models"):
        for host, status in (("localhost:1", 200), ("[::1]", 200), ("evil.example", 421), ("0.0.0.0:8000", 421)):
            assert httpx.get(url, headers={"Host": host}).status_code == status, (url, host)


@pytest.mark.parametrize("name", ["predictor", "queue-proxy", "feedback"])
def test_service_that_is_killed_is_reported_and_started_again(system: System, name: str) -> None:
    killed = system.service(name)
    assert killed
    killed.kill()
    system.wait_for_log(f"the {name} was ended by SIGKILL; starting it again")
    system.wait_until_ready()
    again = system.service(name)
    assert again
    assert again.pid != killed.pid
    reply = httpx.post(system.predict_url, content=PHOTO, headers=IMAGE | {"Prefer": "respond-async, wait=20"})
    assert reply.json()["status"] == "succeeded"


def test_database_that_is_killed_is_reported_and_started_again(system: System) -> None:
    accepted = httpx.post(system.predict_url, content=PHOTO, headers=IMAGE | {"Prefer": "respond-async, wait=20"})
    for process in system.postgres():
        process.kill()
    system.wait_for_log("PostgreSQL ended; starting it again")
    system.wait_until_ready()
    path = f"{system.url}/v1/predictions/{accepted.json()['id']}"
    deadline = time.monotonic() + 30
    while httpx.get(path).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert httpx.get(path).json()["status"] == "succeeded"


def test_one_folder_is_for_one_system(system: System, folder: Path) -> None:
    finished = up(settings_for(folder, data_dir=system.data))
    assert finished.returncode == 2
    assert f"MODEL_SERVER_DATA_DIR={system.data}: another `model-server up` works with it" in finished.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_everything_and_predictions_outlive_it(folder: Path, number: signal.Signals) -> None:
    with running_system(folder) as system:
        accepted = httpx.post(system.predict_url, content=PHOTO, headers=IMAGE | {"Prefer": "respond-async, wait=20"})
        descendants = [*psutil.Process(system.process.pid).children(recursive=True), *system.postgres()]
        assert len(descendants) >= 3
        begun = time.monotonic()
        system.process.send_signal(number)
        assert system.process.wait(END_SECONDS) == 0
        assert time.monotonic() - begun < END_SECONDS
        assert alive(descendants) == []
        assert "Traceback" not in system.log.read_text()
        assert "server stopped" in postgres_log(system) or "database system is shut down" in postgres_log(system)
    with running_system(folder) as system:
        kept = httpx.get(f"{system.url}/v1/predictions/{accepted.json()['id']}").json()
    assert kept["predictions"] == accepted.json()["predictions"]


def test_ctrl_c_under_load_keeps_its_time_and_loses_nothing(folder: Path) -> None:
    pictures = [encode(draw(3000 + number, 2000)) for number in range(24)]
    with running_system(folder) as system:
        url = system.predict_url
        asking = IMAGE | {"Prefer": "respond-async"}
        accepted = [httpx.post(url, content=picture, headers=asking).json()["id"] for picture in pictures]
        begun = time.monotonic()
        system.process.send_signal(signal.SIGINT)
        assert system.process.wait(END_SECONDS) == 0
        assert time.monotonic() - begun < END_SECONDS
    with running_system(folder) as system:
        for identifier in accepted:
            resource = httpx.get(f"{system.url}/v1/predictions/{identifier}", headers={"Prefer": "wait=30"}, timeout=40)
            assert resource.json()["status"] == "succeeded"


def test_database_of_ones_own_is_used_and_left_running(folder: Path) -> None:
    with embedded_postgres(folder / "elsewhere") as url:
        with running_system(folder, database_url=url) as system:
            reply = httpx.post(system.predict_url, content=PHOTO, headers=IMAGE | {"Prefer": "respond-async, wait=20"})
            assert reply.json()["status"] == "succeeded"
        assert system.process.returncode == 0
        assert not (system.data / "postgres").exists()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM predictions").fetchone() == (1,)


def test_a_second_ctrl_c_does_not_wait_for_what_is_in_flight(folder: Path) -> None:
    with running_system(folder) as system:
        descendants = [*psutil.Process(system.process.pid).children(recursive=True), *system.postgres()]
        address = urlsplit(system.url)
        with socket.create_connection((address.hostname, address.port)) as stalled:  # holds up a polite end
            stalled.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
            time.sleep(0.2)
            system.process.send_signal(signal.SIGINT)
            system.wait_for_log("another Ctrl-C hastens it")
            begun = time.monotonic()
            system.process.send_signal(signal.SIGINT)
            assert system.process.wait(END_SECONDS) == 0
        assert time.monotonic() - begun < 2
        deadline = time.monotonic() + 2
        while alive(descendants) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert alive(descendants) == []


def test_a_folder_of_ones_own_is_enough_where_another_user_was_first(folder: Path) -> None:
    """PostgreSQL's wrapper keeps a lock in the folder for temporary files, where the first user's stays."""
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    (temporary / ".lockfile").mkdir()  # cannot be opened, not even by root
    temporary.chmod(0o777)
    program = """
import sys
from pathlib import Path
from model_server.store.embedded import embedded_postgres
with embedded_postgres(Path(sys.argv[1])) as url:
    print(url)
"""
    finished = subprocess.run(
        [sys.executable, "-c", program, str(folder / "postgres")],
        env={**environment_with({}), "TMPDIR": str(temporary), "XDG_RUNTIME_DIR": str(folder / "absent")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("postgresql://")


def postgres_log(system: System) -> str:
    return (system.data / "postgres" / "log").read_text()


def test_ctrl_c_during_the_start_leaves_nothing_behind(folder: Path) -> None:
    environment = settings_for(folder)
    for seconds in (0.5, 1.5, 3):
        process = subprocess.Popen([COMMAND, "up"], env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(seconds)
        descendants = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        process.wait(END_SECONDS)
        assert alive(descendants) == []
        assert not (folder / "data" / "postgres" / "postmaster.pid").exists()


def test_services_end_with_a_system_that_is_killed(folder: Path) -> None:
    with running_system(folder) as system:
        services = psutil.Process(system.process.pid).children(recursive=True)
        system.process.kill()
        system.process.wait()
        deadline = time.monotonic() + 20
        while alive(services) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert alive(services) == []
    with running_system(folder) as system:  # finds PostgreSQL running, and ends it
        assert httpx.get(f"{system.url}/readyz").status_code == 200
    assert system.postgres() == []


@pytest.mark.parametrize(
    ("setting", "option"),
    [
        ("queue_proxy_port", "--port"),
        ("feedback_port", "--feedback-port"),
        ("predictor_port", "--predictor-port"),
        ("predictor_grpc_port", "--grpc-port"),
    ],
)
def test_taken_port_is_named_before_anything_is_started(folder: Path, setting: str, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finished = up(settings_for(folder, **{setting: port}))
    assert finished.returncode == 2
    assert finished.stderr == (
        f"model-server: 127.0.0.1:{port} is taken; choose another by {option} or MODEL_SERVER_{setting.upper()}.\n"
    )
    assert not (folder / "data").exists()


def test_wrong_setting_of_a_service_is_named_before_anything_is_started(folder: Path) -> None:
    finished = up(settings_for(folder, dispatch_concurrency="many"))
    assert finished.returncode == 2
    assert finished.stderr.startswith("model-server: MODEL_SERVER_DISPATCH_CONCURRENCY='many' is not valid")
    assert not (folder / "data").exists()
