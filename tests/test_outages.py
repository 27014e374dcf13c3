"""Whatever state PostgreSQL is in: the door stays open, nothing accepted is lost, and no log tells of a user."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

import database_faults
from accounts_server import PASSWORD, Accounts, Person, running_accounts
from conftest import cloned_database
from database_faults import end_sessions, failing
from feedback_server import LABELS, know_labels
from job_audit import count_ends
from model_server import background
from model_server.background import Background
from model_server.config import LogSettings
from model_server.errors import DatabaseError
from model_server.store.database import Database
from model_server.store.identifiers import new_id
from model_server.store.queue.postgres import PostgresQueue
from model_server.telemetry import configure_logging
from queue_server import ASYNC, IMAGE, MODEL, VERSION, StubPredictor, answers, photo, rows, running_proxy, slow

# fmt: off
AWAY = [
    "08000", "08003", "08006", "08P01", "0A000", "25006", "25P02", "25P03", "25P04", "26000", "28000", "28P01", "3D000",
    "3F000", "40000", "40001", "40P01", "42501", "42P01", "42703", "42P05", "53000", "53100", "53200", "53300",
    "53400", "55006", "55P03", "57000", "57014", "57P01", "57P02", "57P03", "57P04", "57P05", "58000", "58030",
    "58P01", "72000", "F0000", "XX000", "XX001", "XX002",
]
OURS = [
    "0A0XX", "22004", "22012", "23502", "23514", "25001", "42601", "42804", "42883", "P0001", "ZZ999", "HV000",
]
# fmt: on
CALLERS = {"22021": 400, "22P05": 400, "22003": 400, "54000": 400, "23503": 409, "23505": 409}
SECRET = "zx9secret"

_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class Request:
    """What somebody asks for; ``good`` is the status while all is well, ``reads``: nothing is written for it."""

    send: Callable[[System], httpx.Response]
    good: int
    reads: bool = False


class System:
    """Both services on a database that can fail, a user with a token and a key, and a prediction that has ended."""

    def __init__(self, accounts: Accounts, logs: tuple[Path, ...]) -> None:
        self.accounts = accounts
        self.logs = logs
        self.database_url = accounts.proxy.database_url
        self.url = accounts.url
        self.user = accounts.register(f"Ada {SECRET}", f"{SECRET}@example.com")
        self.admin = accounts.administrator()
        key = self.user.send("POST", "/user/me/keys", json={"name": SECRET}).json()["key"]
        self.key_holder = self.user.with_token(key)
        headers = {**ASYNC, "Prefer": "respond-async, wait=20"}
        path = f"/v1/models/{MODEL}:predict"
        self.prediction = self.user.send("POST", path, content=photo(), headers=headers).json()["id"]
        for person in (self.user, self.key_holder, self.admin):
            assert predict(person).status_code == 200
        self.stranger = accounts.stranger

    def log(self) -> str:
        return "".join(log.read_text() for log in self.logs)

    def get(self, path: str) -> httpx.Response:
        return self.stranger.send("GET", path)


def predict(person: Person) -> httpx.Response:
    return person.send("POST", f"/v1/models/{MODEL}:predict", content=photo(), headers=IMAGE)


def submit(person: Person, **headers: str) -> httpx.Response:
    given = {**ASYNC, "Idempotency-Key": f"{SECRET}-{next(_numbers)}", **headers}
    return person.send("POST", f"/v1/models/{MODEL}:predict", content=photo(), headers=given)


def register(system: System) -> httpx.Response:
    document = {"name": SECRET, "email": f"{SECRET}{next(_numbers)}@example.com", "password": PASSWORD}
    return system.stranger.send("POST", "/user/", json=document)


def judge(system: System) -> httpx.Response:
    said = {"prediction_id": system.prediction, "correct_class": "dog", "feedback": SECRET}
    return system.user.send("POST", "/feedback/", json={**said, "image_file_name": f"{SECRET}.jpg"})


def read(path: str) -> Callable[[System], httpx.Response]:
    return lambda system: system.user.send("GET", path.format(prediction=system.prediction))


SYNCHRONOUS = {
    "by somebody unknown": lambda system: predict(system.stranger),
    "with a token": lambda system: predict(system.user),
    "with an API key": lambda system: predict(system.key_holder),
}
OTHERS = {
    "submit": Request(lambda system: submit(system.user), 202),
    "submit, unknown": Request(lambda system: submit(system.stranger), 202),
    "read": Request(read("/v1/predictions/{prediction}"), 200, reads=True),
    "list": Request(read("/v1/predictions"), 200, reads=True),
    "queue": Request(read("/v1/queue"), 200, reads=True),
    "cancel": Request(lambda system: system.user.send("DELETE", f"/v1/predictions/{system.prediction}"), 409),
    "register": Request(register, 201),
    "log in": Request(lambda system: system.accounts.login(f"{SECRET}@example.com"), 200, reads=True),
    "judge": Request(judge, 201),
    "report": Request(read("/feedback/report"), 200, reads=True),
    "own feedback": Request(read("/feedback/"), 200, reads=True),
    "quota": Request(
        lambda system: system.admin.send("PUT", f"/v1/quotas/{system.user.id}", json={"images_per_day": 10**9}), 200
    ),
}


@pytest.fixture(scope="module")
def stub() -> Iterator[StubPredictor]:
    with StubPredictor(slow(0.2)) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def system(postgres: str, stub: StubPredictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(postgres, stub, tmp_path_factory.mktemp("outages"), account_cache_seconds=3600) as running:
        yield running


@contextlib.contextmanager
def running_system(postgres: str, stub: StubPredictor, folder: Path, **settings: object) -> Iterator[System]:
    with cloned_database(postgres) as database_url:
        count_ends(database_url)
        know_labels(database_url, MODEL, VERSION, LABELS)
        database_faults.install(database_url)
        with running_accounts(folder, database_url, stub.url, **settings) as accounts:
            yield System(accounts, (folder / "proxy", folder / "feedback"))


def ask_all(system: System) -> dict[str, httpx.Response]:
    time.sleep(0.6)  # the queue's state is kept for half a second
    with ThreadPoolExecutor(len(OTHERS)) as pool:
        return dict(zip(OTHERS, pool.map(lambda one: one.send(system), OTHERS.values()), strict=True))


def assert_the_door_is_open(system: System) -> None:
    assert {name: send(system).status_code for name, send in SYNCHRONOUS.items()} == dict.fromkeys(SYNCHRONOUS, 200)
    for path in ("/healthz", "/metrics", "/", "/docs"):
        assert system.get(path).status_code == 200, path


def assert_refused_for_now(replies: dict[str, httpx.Response]) -> None:
    for name, reply in replies.items():
        assert (reply.status_code, list(reply.json())) == (503, ["error"]), (name, reply.text)
        assert int(reply.headers["Retry-After"]) > 0, name
        assert SECRET not in reply.text


def assert_all_is_well(system: System, accepted: list[str], seconds: float = 15) -> None:
    """Assert that everything works again, and what was accepted has ended once."""
    deadline = time.monotonic() + seconds
    wanted = {name: request.good for name, request in OTHERS.items()}
    while (found := {name: reply.status_code for name, reply in ask_all(system).items()}) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    wait_until(lambda: system.get("/readyz").status_code == 200, deadline)
    for identifier in accepted:
        wait_until(lambda: status_of(system, identifier) == "succeeded", deadline)  # noqa: B023
    ended = "SELECT id::text, count(*) FROM ends WHERE id = ANY(%s::uuid[]) GROUP BY id"
    assert dict(rows(system.database_url, ended, accepted)) == dict.fromkeys(accepted, 1)
    assert system.accounts.proxy.process.poll() is None
    assert system.accounts.feedback.poll() is None
    assert SECRET not in system.log()
    assert "photograph" not in system.log()


def wait_until(holds: Callable[[], bool], deadline: float) -> None:
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.1)


def status_of(system: System, identifier: str) -> str:
    status: str = rows(system.database_url, "SELECT status FROM predictions WHERE id = %s", identifier)[0][0]
    return status


def accept_some(system: System) -> list[str]:
    return [submit(system.user).json()["id"] for _ in range(3)]


def test_each_sqlstate_is_somebodys_fault_on_every_way_to_the_database(database_url):
    wanted = dict.fromkeys(AWAY, 503) | dict.fromkeys(OURS, 500) | CALLERS

    async def by_transaction(database: Database, statement: str) -> None:
        async with database.transaction() as connection:
            await connection.execute(text(statement))

    async def by_pipeline(database: Database, statement: str) -> None:
        async with database.pipeline() as driver:
            await driver.execute(statement.encode())

    async def by_queue(database: Database, statement: str) -> None:
        queue = PostgresQueue(database, 30)
        async with database.pipeline() as driver:
            await driver.execute(statement.encode())
            await asyncio.sleep(0.01)  # it has been answered: PgQueuer is told of it
            await queue.announce(driver, [(new_id(), 3)])

    async def by_listening(database: Database, statement: str) -> None:
        async with database.listening() as driver:
            await driver.execute(statement.encode())

    async def ask() -> dict[str, int]:
        database, found = Database(make_url(database_url).set(drivername="postgresql+psycopg"), 2), {}
        for state, way in itertools.product(wanted, (by_transaction, by_pipeline, by_queue, by_listening)):
            raising = f"DO $$ BEGIN RAISE EXCEPTION '{SECRET}' USING ERRCODE = '{state}'; END $$"
            with pytest.raises(DatabaseError) as raised:
                await way(database, raising)
            assert SECRET not in str([raised.value, raised.value.__notes__])
            found[state] = int(raised.value.status)
            assert found[state] == wanted[state], (state, way)
        await database.close()
        return found

    assert asyncio.run(ask()) == wanted


@pytest.mark.parametrize("state", ["08006", "25006", "26000", "40P01", "42P01", "53100", "57P01", "XX001"])
def test_what_may_pass_refuses_all_but_synchronous_predictions_for_now(system, state):
    accepted = accept_some(system)
    with failing(system.database_url, state):
        assert_refused_for_now(ask_all(system))
        assert_the_door_is_open(system)
        wait_until(lambda: system.get("/readyz").status_code == 503, time.monotonic() + 3)
    assert_all_is_well(system, accepted)


@pytest.mark.parametrize("state", ["23502", "42601", "P0001", "ZZ999"])
def test_what_is_our_fault_is_500_and_in_the_log(system, state):
    accepted = accept_some(system)
    known = len(system.log())
    with failing(system.database_url, state):
        replies = ask_all(system)
        assert_the_door_is_open(system)
    for name, reply in replies.items():
        assert (reply.status_code, list(reply.json())) == (500, ["error"]), (name, reply.text)
    assert f"SQLSTATE {state}, raised in exec_stmt_raise" in system.log()[known:]
    assert_all_is_well(system, accepted)


@pytest.mark.parametrize("state", ["22021", "23505", "23503"])
def test_what_is_the_callers_fault_is_4xx(system, state):
    accepted = accept_some(system)
    with failing(system.database_url, state):
        replies = ask_all(system)
        assert_the_door_is_open(system)
    for name, reply in replies.items():
        assert (reply.status_code, list(reply.json())) == (CALLERS[state], ["error"]), (name, reply.text)
    assert_all_is_well(system, accepted)


def set_read_only(system: System, is_on: str) -> None:
    name = make_url(system.database_url).database
    with psycopg.connect(system.database_url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {is_on}".encode())


@contextlib.contextmanager
def read_only(system: System) -> Iterator[None]:
    set_read_only(system, "on")
    end_sessions(system.database_url)
    try:
        yield
    finally:  # the sessions of the services live on, read-only each
        set_read_only(system, "off")


@contextlib.contextmanager
def closed(system: System) -> Iterator[None]:
    """Let nobody connect, as with a server that starts, or too many connections."""
    url = make_url(system.database_url)
    elsewhere = url.set(database="postgres").render_as_string(hide_password=False)
    rows(elsewhere, f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false")
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    rows(elsewhere, others, url.database)
    try:
        yield
    finally:
        rows(elsewhere, f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true")


@contextlib.contextmanager
def locked(system: System, limit: str = "lock_timeout") -> Iterator[None]:
    """Lock the tables, and let nobody wait for them long."""
    name = make_url(system.database_url).database
    with psycopg.connect(system.database_url) as locking:
        rows(system.database_url, f"ALTER DATABASE {name} SET {limit} = '200ms'")
        end_sessions(system.database_url, locking.info.backend_pid)
        locking.execute("LOCK TABLE predictions, users, feedback, quotas, usage IN ACCESS EXCLUSIVE MODE")
        try:
            yield
        finally:
            rows(system.database_url, f"ALTER DATABASE {name} RESET {limit}")
    end_sessions(system.database_url)


@contextlib.contextmanager
def without_time(system: System) -> Iterator[None]:
    """Have PostgreSQL end each statement that takes longer than a moment, which the locks see to."""
    with locked(system, "statement_timeout"):
        yield


@pytest.mark.parametrize("state", [read_only, closed, locked, without_time])
def test_a_state_of_the_server_ends_nothing(system, state):
    accepted = accept_some(system)
    with state(system):
        ask_all(system)  # each connection of before is found broken once
        replies = ask_all(system)
        if state is read_only:
            reading = [name for name, request in OTHERS.items() if request.reads]
            assert [replies.pop(name).status_code for name in reading] == [OTHERS[name].good for name in reading]
        assert_refused_for_now(replies)
        assert_the_door_is_open(system)
        wait_until(lambda: system.get("/readyz").status_code == 503, time.monotonic() + 3)
        ready = httpx.get(f"{system.accounts.feedback_url}/readyz", timeout=10)
        assert ready.status_code == (200 if state in {locked, without_time} else 503)
    assert_all_is_well(system, accepted)


def test_accounts_that_were_read_a_moment_ago_go_on_and_others_are_told_to_come_back(postgres, stub, tmp_path):
    with running_system(postgres, stub, tmp_path, mode="accounts", account_cache_seconds=3) as system:
        assert predict(system.user).status_code == 200
        with failing(system.database_url, "25006"):
            assert predict(system.user).status_code == 200
            assert predict(system.stranger).status_code == 401
            wait_until(lambda: predict(system.user).status_code == 503, time.monotonic() + 5)
            refused = predict(system.user)
            assert_refused_for_now({"predict": refused})
        assert predict(system.user).status_code == 200


def test_a_key_is_good_for_a_database_that_takes_no_note_of_its_use(postgres, stub, tmp_path):
    with running_system(postgres, stub, tmp_path, mode="accounts", account_cache_seconds=0) as system:
        rows(system.database_url, "UPDATE api_keys SET last_used_at = NULL")
        with read_only(system):
            # Each connection of before is found broken once.
            wait_until(lambda: predict(system.key_holder).status_code == 200, time.monotonic() + 5)
            assert {predict(system.key_holder).status_code for _ in range(5)} == {200}


def failing_tasks(system_url: str) -> set[str]:
    lines = httpx.get(f"{system_url}/metrics", timeout=10).text.splitlines()
    prefix = 'model_server_queue_proxy_background_failing{task="'
    return {line.removeprefix(prefix).partition('"')[0] for line in lines if line.startswith(prefix) and "} 1" in line}


@pytest.mark.parametrize("state", ["P0001", "22021", "53100"])
def test_background_work_goes_on_after_whatever_it_met_and_shows_it_meanwhile(tmp_path, database_url, state):
    database_faults.install(database_url)
    count_all = "SELECT count(*) FROM predictions WHERE status = 'succeeded'"
    settings = {"callback_hosts": '["127.0.0.1"]', "callback_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    with (
        StubPredictor(slow(1)) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url, dispatch_lease_seconds=3, **settings) as proxy,
    ):
        identifiers = [proxy.submit(Callback_Url="http://127.0.0.1:1/").json()["id"] for _ in range(3)]
        with failing(database_url, state):
            wanted = {"metering", "beat", "expire", "dispatch", "results", "callback: take"}
            wait_until(lambda: failing_tasks(proxy.url) >= wanted, time.monotonic() + 10)
            assert proxy.process.poll() is None
        wait_until(lambda: not failing_tasks(proxy.url) - {"callback: send"}, time.monotonic() + 10)
        wait_until(lambda: rows(database_url, count_all) == [(len(identifiers),)], time.monotonic() + 10)
        log = (tmp_path / "log").read_text()
    assert 1 <= log.count("background work fails: dispatch") + log.count("background work waits: dispatch") <= 2
    assert "background work goes on: dispatch" in log


@pytest.mark.parametrize(
    ("table", "wanted"), [("predictions", {"sweep", "queue: take over", "expire"}), ("usage", set())]
)
def test_work_that_fails_from_the_start_is_done_once_it_can_be(tmp_path, database_url, table, wanted):
    database_faults.install(database_url)
    broken = failing(database_url, "P0001", table)
    broken.__enter__()
    ready = 500 if table == "predictions" else 200
    with (
        StubPredictor(answers()) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url, retention_seconds=60, ready=ready) as proxy,
    ):
        wait_until(lambda: failing_tasks(proxy.url) >= wanted, time.monotonic() + 5)
        broken.__exit__(None, None, None)
        wait_until(lambda: not failing_tasks(proxy.url), time.monotonic() + 5)
        assert proxy.get("/readyz").status_code == 200
        assert proxy.submit(Prefer="respond-async, wait=10").json()["status"] == "succeeded"


def test_readiness_names_the_work_that_stays_broken(tmp_path, database_url, stub):
    database_faults.install(database_url)
    with running_proxy(tmp_path / "log", database_url, stub.url) as proxy:
        with failing(database_url, "P0001", "usage"):
            httpx.post(proxy.predict_url, content=photo(), headers=IMAGE)
            wait_until(lambda: proxy.get("/readyz").status_code == 503, time.monotonic() + 40)
            assert "metering" in proxy.get("/readyz").json()["error"]
            assert httpx.post(proxy.predict_url, content=photo(), headers=IMAGE).status_code == 200
        wait_until(lambda: proxy.get("/readyz").status_code == 200, time.monotonic() + 5)
    assert rows(database_url, "SELECT sum(requests) FROM usage") == [(2,)]


def test_a_process_ends_in_order_while_the_database_refuses_everything(tmp_path, database_url, stub):
    database_faults.install(database_url)
    with running_proxy(tmp_path / "log", database_url, stub.url, shutdown_grace_seconds=2) as proxy:
        proxy.submit()
        with failing(database_url, "P0001"):
            assert httpx.post(proxy.predict_url, content=photo(), headers=IMAGE).status_code == 200
            assert proxy.stop(10) == 0
    assert "stopped" in (tmp_path / "log").read_text().splitlines()[-1]


def test_the_embedded_server_writes_nothing_of_a_failed_statement_into_its_log(database_url):
    folder = Path(str(make_url(database_url).query["host"]))
    with pytest.raises(psycopg.DataError):
        rows(database_url, "SELECT CAST(%s AS text)::uuid", SECRET)
    with pytest.raises(psycopg.errors.NotNullViolation):
        rows(database_url, "INSERT INTO users (id, name) VALUES (gen_random_uuid(), %s)", SECRET)
    assert SECRET not in (folder / "log").read_text()


def test_no_error_of_a_library_brings_what_a_user_sent_into_the_log(capsys):
    configure_logging(LogSettings(log_format="json"))
    logger = logging.getLogger("model_server.test")

    async def forget() -> None:
        asyncio.get_running_loop().create_task(fail())
        await asyncio.sleep(0.01)

    async def fail() -> None:
        raise KeyError(SECRET)

    try:
        int(SECRET)
    except ValueError as error:
        together = ExceptionGroup(SECRET, [FileNotFoundError(2, "No such file", SECRET), error])
        together.__cause__ = error
        logger.error("request failed", exc_info=together)  # noqa: TRY400 - with what it came from
    asyncio.run(forget())
    gc.collect()
    logging.getLogger("psycopg").warning("error ignored in %s: %s", "pipeline", KeyError(SECRET))
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    told = capsys.readouterr().err
    assert SECRET not in told
    assert "test_outages.py" in told
    assert "Task exception was never retrieved" in told


class TestDuty:
    """The mechanism itself."""

    def test_a_failure_is_tried_again_and_shows_until_it_works(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(background, "STUCK_SECONDS", 0.05)
        tried: list[float] = []
        work = Background(lambda _: None)

        async def fails_at_first() -> None:
            tried.append(time.monotonic())
            if len(tried) < 3:
                raise RuntimeError

        async def watch() -> None:
            duty = work.duty("counting")
            repeating = asyncio.create_task(duty.repeat(fails_at_first, 0.01))
            await asyncio.sleep(0.2)
            assert (duty.is_failing, work.stuck) == (True, []), "one failure is no lasting one"
            await asyncio.sleep(0.5)
            assert (duty.is_failing, work.stuck) == (True, ["counting"])
            await asyncio.sleep(1)
            assert (duty.is_failing, work.stuck) == (False, [])
            assert len(tried) > 5
            repeating.cancel()
            assert await asyncio.wait_for(asyncio.gather(repeating, return_exceptions=True), 1)

        asyncio.run(watch())

    def test_what_a_library_cancels_goes_on_and_what_is_cancelled_ends(self) -> None:
        tried: list[int] = []

        async def cancelled_from_within() -> None:
            tried.append(1)
            await asyncio.sleep(0)
            raise asyncio.CancelledError

        async def watch() -> None:
            duty = Background(lambda _: None).duty("waiting")
            repeating = asyncio.create_task(duty.repeat(cancelled_from_within, 0))
            await asyncio.sleep(0.7)
            assert len(tried) == 2
            repeating.cancel()
            (ended,) = await asyncio.gather(repeating, return_exceptions=True)
            assert isinstance(ended, asyncio.CancelledError)

        asyncio.run(watch())
