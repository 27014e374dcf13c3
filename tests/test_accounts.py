"""Accounts through the door: who may do what, and what happens to those who try to get in."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from accounts_server import PASSWORD, SECRET, Accounts, Person, running_accounts, running_feedback
from conftest import cloned_database
from pictures import b64
from queue_server import ASYNC, IMAGE, MODEL, StubPredictor, answers, photo, rows
from system import COMMAND
from test_access import FORGERIES

PREDICT = f"/v1/models/{MODEL}:predict"
INJECTIONS = [
    "'; DROP TABLE users; --",
    "%s %(x)s :name ${7*7} {{7*7}} \\' \"",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "İstanbul ﷽ 👩‍👩‍👧 e\u0301",
]


@pytest.fixture(scope="module")
def stub() -> Iterator[StubPredictor]:
    with StubPredictor(answers()) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def closed(postgres: str, tmp_path_factory: pytest.TempPathFactory, stub: StubPredictor) -> Iterator[Accounts]:
    """Mode `accounts`."""
    folder = tmp_path_factory.mktemp("closed")
    with cloned_database(postgres) as url, running_accounts(folder, url, stub.url, mode="accounts") as running:
        yield running


@pytest.fixture(scope="module")
def opened(postgres: str, tmp_path_factory: pytest.TempPathFactory, stub: StubPredictor) -> Iterator[Accounts]:
    """Mode `open`."""
    folder = tmp_path_factory.mktemp("opened")
    with cloned_database(postgres) as url, running_accounts(folder, url, stub.url) as running:
        yield running


@pytest.fixture(scope="module")
def admin(closed: Accounts) -> Person:
    return closed.administrator()


def submit(person: Person, **headers: str | bytes) -> httpx.Response:
    return person.send(
        "POST", PREDICT, content=photo(), headers={**ASYNC, "Prefer": "respond-async, wait=20", **headers}
    )


def predicted(person: Person) -> str:
    """Return the id of a prediction that this person has asked for."""
    reply = submit(person)
    assert reply.status_code == 200, reply.text
    identifier: str = reply.json()["id"]
    return identifier


def test_refusal_says_how_to_log_in(closed: Accounts) -> None:
    reply = closed.stranger.send("GET", "/v1/predictions")
    assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert "POST /login" in reply.json()["error"]


def test_list_shows_ones_own_and_everybodys_to_an_administrator(closed: Accounts, admin: Person) -> None:
    one, other = closed.register(), closed.register()
    mine, theirs = predicted(one), predicted(other)
    listed = {
        person.id: {entry["id"] for entry in person.send("GET", "/v1/predictions?limit=100").json()["predictions"]}
        for person in (one, other, admin)
    }
    assert listed[one.id] == {mine}
    assert listed[other.id] == {theirs}
    assert listed[admin.id] >= {mine, theirs}


def test_idempotency_key_is_each_users_own(closed: Accounts) -> None:
    one, other, content = closed.register(), closed.register(), photo()
    asked = {**ASYNC, "Idempotency-Key": "k"}
    ids = [who.send("POST", PREDICT, content=content, headers=asked).json()["id"] for who in (one, other, one)]
    assert ids[0] == ids[2] != ids[1]
    assert other.send("GET", f"/v1/predictions/{ids[0]}").status_code == 404
    fresh = other.send("POST", PREDICT, content=photo(), headers={**ASYNC, "Idempotency-Key": "k"})
    assert fresh.status_code == 422


def test_open_mode_keeps_what_users_have_made_to_themselves(opened: Accounts) -> None:
    nobody, one, other = opened.stranger, opened.register(), opened.register()
    anonymous, mine = predicted(nobody), predicted(one)
    assert [person.send("GET", f"/v1/predictions/{anonymous}").status_code for person in (nobody, one)] == [200, 200]
    seen = [person.send("GET", f"/v1/predictions/{mine}").status_code for person in (one, nobody, other)]
    assert seen == [200, 404, 404]
    listed = {entry["id"] for entry in nobody.send("GET", "/v1/predictions").json()["predictions"]}
    assert anonymous in listed
    assert mine not in listed
    expired = one.with_token(FORGERIES["expired"](one))
    assert expired.send("GET", f"/v1/predictions/{anonymous}").status_code == 401


def test_what_a_deleted_user_leaves_becomes_nobodys(opened: Accounts) -> None:
    leaving = opened.register("Grace", "grace@example.com")
    mine = predicted(leaving)
    assert leaving.send("DELETE", f"/user/{leaving.id}").status_code == 204
    assert opened.stranger.send("GET", f"/v1/predictions/{mine}").status_code == 404
    assert opened.administrator().send("GET", f"/v1/predictions/{mine}").status_code == 200
    for table in ("users", "api_keys", "predictions"):
        (text,) = rows(opened.proxy.database_url, f"SELECT coalesce(string_agg(t::text, ''), '') FROM {table} AS t")[0]
        assert "grace" not in text.lower()
    assert opened.register("Grace", "grace@example.com").id != leaving.id


def test_predictor_is_shown_no_token(opened: Accounts, stub: StubPredictor) -> None:
    person = opened.register()
    stub.headers.clear()
    assert person.send("POST", PREDICT, content=photo(), headers=IMAGE).status_code == 200
    assert submit(person).status_code == 200
    assert len(stub.headers) == 2
    assert not any("authorization" in headers for headers in stub.headers)


def test_open_mode_without_a_token_asks_the_database_nothing(opened: Accounts) -> None:
    def transactions() -> int:
        time.sleep(1.2)  # PostgreSQL publishes its counts once a second
        query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        return int(rows(opened.proxy.database_url, query)[0][0])

    before = transactions()
    with httpx.Client() as client:
        for _ in range(200):
            assert client.post(opened.url + PREDICT, content=photo(), headers=IMAGE).status_code == 200
    assert transactions() - before < 50


def test_removed_account_is_refused_within_the_cache_time(
    postgres: str, tmp_path_factory: pytest.TempPathFactory, stub: StubPredictor
) -> None:
    folder = tmp_path_factory.mktemp("cached")
    with (
        cloned_database(postgres) as url,
        running_accounts(folder, url, stub.url, mode="accounts", account_cache_seconds=1) as accounts,
    ):
        person = accounts.register()
        assert person.send("GET", "/v1/predictions").status_code == 200
        assert person.send("DELETE", "/user/me").status_code == 204
        assert person.send("GET", "/user/me").status_code == 401  # at once, where it was removed
        deadline = time.monotonic() + 3
        while person.send("GET", "/v1/predictions").status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"email": "nobody"}, 422),
        ({"email": "a@b"}, 422),
        ({"email": "a@b..com"}, 422),
        ({"email": "x" * 400 + "@example.com"}, 422),
        ({"email": "a\0b@example.com"}, 422),
        ({"email": "\ud800@example.com"}, 422),
        ({"email": 7}, 422),
        ({"email": None}, 422),
        ({"name": ""}, 422),
        ({"name": "  \t"}, 422),
        ({"name": "x" * 101}, 422),
        ({"name": "a\0b"}, 422),
        ({"name": "two\nlines"}, 422),
        ({"name": "\ud800"}, 422),
        ({"name": ["Ada"]}, 422),
        ({"password": "short77"}, 422),
        ({"password": "x" * 129}, 422),
        ({"password": "\ud800" * 8}, 422),
        ({"password": 12345678}, 422),
        ({"is_admin": True}, 422),
        ({"name": "x" * 70_000}, 413),
    ],
)
def test_wrong_registration_is_refused_in_a_sentence(opened: Accounts, changed: dict[str, object], status: int) -> None:
    document = {"name": "Ada", "email": f"{os.urandom(4).hex()}@example.com", "password": PASSWORD, **changed}
    reply = httpx.post(f"{opened.url}/user/", content=json.dumps(document))
    assert reply.status_code == status, reply.text
    assert reply.json()["error"].endswith(".")


def test_password_of_8_and_of_128_characters_is_taken(opened: Accounts) -> None:
    for length in (8, 128):
        email = f"{os.urandom(4).hex()}@example.com"
        document = {"name": "Ada", "email": email, "password": "ü" * length}
        assert httpx.post(f"{opened.url}/user/", json=document).status_code == 201
        assert (
            opened.login(email, "u\u0308" * length).status_code == 200
        )  # the same letter, as another keyboard sends it
        assert opened.login(email, "ü" * (length - 1)).status_code == 401


def test_email_is_one_account_whatever_its_case(opened: Accounts) -> None:
    name = os.urandom(4).hex()
    opened.register(email=f"Ada.{name}@Example.com")
    again = {"name": "Eve", "email": f"ADA.{name}@EXAMPLE.COM", "password": PASSWORD}
    assert httpx.post(f"{opened.url}/user/", json=again).status_code == 409
    assert opened.login(f" ada.{name}@example.COM ").status_code == 200


def test_200_registrations_of_one_email_at_once_make_one_user(opened: Accounts) -> None:
    email = f"{os.urandom(4).hex()}@example.com"

    def register(number: int) -> int:
        document = {"name": f"Ada {number}", "email": email if number % 2 else email.upper(), "password": PASSWORD}
        return httpx.post(f"{opened.url}/user/", json=document, timeout=120).status_code

    with ThreadPoolExecutor(200) as pool:
        statuses = Counter(pool.map(register, range(200)))
    assert statuses == {201: 1, 409: 199}
    assert rows(opened.proxy.database_url, "SELECT count(*) FROM users WHERE email_key = %s", email) == [(1,)]


def test_unknown_user_and_wrong_password_cannot_be_told_apart(opened: Accounts) -> None:
    known = opened.register().email
    unknown = "nobody-of-this-name@example.com"
    replies, seconds = {}, {known: [], unknown: []}
    for _ in range(40):
        for email in (known, unknown):
            begun = time.perf_counter()
            replies[email] = opened.login(email, "a wrong password", **{"X-Forwarded-For": "1.2.3.4"})
            seconds[email].append(time.perf_counter() - begun)
    ours = {"date", "x-request-id"}
    told = [
        (reply.status_code, reply.text, {name: value for name, value in reply.headers.items() if name not in ours})
        for reply in replies.values()
    ]
    assert told[0] == told[1]
    assert told[0][0] == 401
    medians = [statistics.median(values) for values in seconds.values()]
    quickest = [min(values) for values in seconds.values()]
    # Without the hash that is computed for nobody an unknown user would be answered in a tenth of the time.
    assert 0.7 < medians[0] / medians[1] < 1.43, medians
    assert 0.7 < quickest[0] / quickest[1] < 1.43, quickest


@pytest.mark.parametrize("text", INJECTIONS)
def test_injection_in_a_text_comes_back_as_text(opened: Accounts, text: str) -> None:
    person = opened.register(text)
    assert person.send("GET", "/user/me").json()["name"] == text
    key = person.send("POST", "/user/me/keys", json={"name": text})
    assert key.json()["name"] == text
    assert person.send("GET", "/user/me/keys").json()["keys"][0]["name"] == text
    assert opened.login(text, text).status_code == 401
    assert person.send("GET", "/user/me", headers={"X-Request-Id": "x"}).headers["Content-Type"] == "application/json"
    document = {"name": text, "data": b64(photo())}
    assert person.send("POST", "/inference/image", json=document).status_code == 200
    form = {"command": "predict", "metadata": json.dumps({"request_id": text})}
    classified = person.send("POST", "/inference", data=form, files={"image": (text, photo())})
    assert classified.status_code == 400, "it would be the name of a line in the log"
    asked = submit(person, **{"Idempotency-Key": text.encode(), "X-Request-Id": text.encode()})
    assert asked.status_code in {200, 400}, asked.text
    for path in (f"/v1/models/{quote(text, safe='')}", f"/v1/predictions?status={quote(text)}&cursor={quote(text)}"):
        assert person.send("GET", path).status_code in {200, 400, 404}
    assert rows(opened.proxy.database_url, "SELECT count(*) > 0 FROM users") == [(True,)]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"data": {"username": "a@example.com"}}, 422),
        ({"data": {"username": "a@example.com", "password": "x", "grant_type": "client_credentials"}}, 422),
        ({"json": {"username": "a@example.com", "password": "x"}}, 415),
        (
            {"content": b"username=%ff&password=x", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
            400,
        ),
        ({"content": b"a&" * 40, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 400),
        ({"data": {"username": "a@example.com", "password": "x" * 70_000}}, 413),
        ({"data": {"username": "a\0@example.com", "password": "x\0"}}, 401),
    ],
)
def test_wrong_login_form_is_refused_in_a_sentence(opened: Accounts, sent: dict[str, object], status: int) -> None:
    reply = httpx.post(f"{opened.url}/login", **sent)  # type: ignore[arg-type]
    assert reply.status_code == status, reply.text
    assert reply.json()["error"].endswith(".")


def test_api_key_is_shown_once_kept_hashed_and_revoked_at_once(opened: Accounts) -> None:
    person = opened.register()
    made = person.send("POST", "/user/me/keys", json={"name": "nightly"}).json()
    assert made["key"].startswith(made["hint"])
    (listed,) = person.send("GET", f"/user/{person.id}/keys").json()["keys"]
    assert "key" not in listed
    assert listed["last_used_at"] is None
    stored = rows(opened.proxy.database_url, "SELECT t::text FROM api_keys AS t WHERE user_id = %s", person.id)[0][0]
    assert made["key"] not in stored
    machine = person.with_token(made["key"])
    assert submit(machine).status_code == 200
    assert person.send("GET", "/user/me/keys").json()["keys"][0]["last_used_at"]
    assert person.send("DELETE", f"/user/me/keys/{made['id']}").status_code == 204
    assert submit(machine).status_code == 401
    assert person.send("DELETE", f"/user/me/keys/{made['id']}").status_code == 404


def test_api_keys_of_a_user_are_limited(opened: Accounts) -> None:
    person = opened.register()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(person.send, "POST", "/user/me/keys", json={"name": "k"}) for _ in range(60)]
    assert Counter(reply.result().status_code for reply in asked) == {201: 50, 409: 10}


def test_administrator_sees_users_page_by_page(closed: Accounts, admin: Person) -> None:
    made = {closed.register().id for _ in range(3)}
    seen, cursor = [], ""
    while cursor is not None:
        page = admin.send("GET", f"/user/?limit=2{cursor and f'&cursor={cursor}'}").json()
        seen += [user["id"] for user in page["users"]]
        cursor = page["next_cursor"]
    assert made <= set(seen)
    assert len(seen) == len(set(seen))


def test_new_password_ends_old_tokens(opened: Accounts) -> None:
    person = opened.register()
    time.sleep(1.1)  # tokens count whole seconds
    opened.command("user", "password", "--email", person.email, password="another password")
    assert person.send("GET", "/user/me").status_code == 401
    assert opened.login(person.email).status_code == 401
    assert opened.login(person.email, "another password").status_code == 200


@pytest.mark.parametrize(
    ("keys", "options", "sentence", "status"),
    [
        (0, (), "Its tokens end within seconds; it has no API keys.", None),
        (0, ("--revoke-keys",), "Its tokens end within seconds; it has no API keys.", None),
        (1, (), "Its tokens end within seconds. Its 1 API key stays good: --revoke-keys ends them.", 200),
        (2, (), "Its tokens end within seconds. Its 2 API keys stay good: --revoke-keys ends them.", 200),
        (1, ("--revoke-keys",), "Its tokens and its 1 API key end within seconds.", 401),
        (2, ("--revoke-keys",), "Its tokens and its 2 API keys end within seconds.", 401),
    ],
)
def test_new_password_ends_api_keys_where_asked_and_says_so(
    opened: Accounts, keys: int, options: tuple[str, ...], sentence: str, status: int | None
) -> None:
    person, other = opened.register(), opened.register()
    made = [who.send("POST", "/user/me/keys", json={"name": "k"}).json()["key"] for who in [person] * keys + [other]]
    said = opened.command("user", "password", "--email", person.email, *options, password="another password")
    assert said == f"{person.email} has a new password. {sentence}\n"
    for path in ("/user/me", "/v1/predictions"):
        assert [person.with_token(key).send("GET", path).status_code for key in made[:-1]] == [status] * keys
        assert person.with_token(made[-1]).send("GET", path).status_code == 200, "another user's"


def test_commands_take_a_token_and_say_that_they_need_one(closed: Accounts, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photo())
    command = [COMMAND, "submit", "--url", closed.url, "--model", MODEL, tmp_path / "a.jpg"]

    def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *options], env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
        )

    refused = run()
    assert refused.returncode == 1
    assert refused.stderr.startswith("model-server: ")
    assert "token" in refused.stderr
    assert refused.stderr.count("\n") == 1
    token = closed.register().token
    for accepted in (run("--token", token), run(MODEL_SERVER_TOKEN=token)):
        assert accepted.returncode == 0, accepted.stderr
        assert json.loads(accepted.stdout)["status"] == "succeeded"


@pytest.fixture(scope="module")
def limited(postgres: str, tmp_path_factory: pytest.TempPathFactory, stub: StubPredictor) -> Iterator[Accounts]:
    limits = {"login_attempts": 3, "login_attempts_per_address": 20, "login_attempts_per_account": 8}
    folder = tmp_path_factory.mktemp("limited")
    with (
        cloned_database(postgres) as url,
        running_accounts(
            folder, url, stub.url, trusted_proxies=1, registrations_per_hour=4, login_window_seconds=600, **limits
        ) as running,
    ):
        yield running


class TestLimits:
    def test_account_is_closed_to_an_address_that_guesses_and_open_to_others(self, limited: Accounts) -> None:
        email = limited.register().email
        guesses = [limited.login(email, "guess", **{"X-Forwarded-For": "10.0.0.1"}).status_code for _ in range(4)]
        assert guesses == [401, 401, 401, 429]
        closed = limited.login(email, **{"X-Forwarded-For": "10.0.0.1"})
        assert closed.status_code == 429  # the right password as well, or guessing would go on
        assert 0 < int(closed.headers["Retry-After"]) <= 600
        assert limited.login(email.upper(), **{"X-Forwarded-For": "10.0.0.1"}).status_code == 429
        assert limited.login(email, **{"X-Forwarded-For": "10.0.0.2"}).status_code == 200

    def test_account_is_the_same_however_its_email_is_written(self, limited: Accounts) -> None:
        ways = ["mallory@example.com", " mallory@example.com", "Mallory@\uff45xample.com", "MALLORY@example.com\t"]
        got = [limited.login(way, "guess", **{"X-Forwarded-For": "10.0.0.6"}).status_code for way in ways]
        assert got == [401, 401, 401, 429]

    def test_address_a_caller_invents_is_not_believed(self, limited: Accounts) -> None:
        got = [
            limited.login("eve@example.com", "guess", **{"X-Forwarded-For": f"1.1.1.{number}, 10.0.0.3"}).status_code
            for number in range(4)
        ]
        assert got == [401, 401, 401, 429]

    def test_line_that_a_proxy_adds_counts_and_not_the_caller_s(self, limited: Accounts) -> None:
        form = {"username": "oscar@example.com", "password": "guess"}
        got = [
            httpx.post(
                f"{limited.url}/login",
                data=form,
                headers=[("X-Forwarded-For", f"1.1.2.{number}"), ("X-Forwarded-For", "10.0.0.7")],
            ).status_code
            for number in range(4)
        ]
        assert got == [401, 401, 401, 429]

    def test_ipv6_network_counts_as_one_address(self, limited: Accounts) -> None:
        got = [
            limited.login("eve@example.com", "guess", **{"X-Forwarded-For": f"2001:db8::{number}"}).status_code
            for number in range(1, 5)
        ]
        assert got == [401, 401, 401, 429]

    def test_success_forgets_the_failures_before(self, limited: Accounts) -> None:
        email = limited.register().email
        address = {"X-Forwarded-For": "10.0.0.4"}
        for _ in range(2):
            assert [limited.login(email, "guess", **address).status_code for _ in range(2)] == [401, 401]
            assert limited.login(email, **address).status_code == 200

    def test_many_addresses_cannot_guess_at_one_account(self, limited: Accounts) -> None:
        got = [
            limited.login("victim@example.com", "guess", **{"X-Forwarded-For": f"10.1.0.{number}"}).status_code
            for number in range(9)
        ]
        assert got == [401] * 8 + [429]

    def test_one_address_cannot_guess_at_many_accounts(self, limited: Accounts) -> None:
        got = [
            limited.login(f"{number}@example.com", "guess", **{"X-Forwarded-For": "10.0.0.5"}).status_code
            for number in range(21)
        ]
        assert got == [401] * 20 + [429]

    def test_one_address_registers_so_often_an_hour(self, limited: Accounts) -> None:
        got = [
            httpx.post(
                f"{limited.url}/user/",
                json={"name": "Eve", "email": f"eve{number}@example.org", "password": PASSWORD},
                headers={"X-Forwarded-For": "10.0.0.6"},
            ).status_code
            for number in range(5)
        ]
        assert got == [201] * 4 + [429]


def test_closed_registration_lets_administrators_make_accounts(
    postgres: str, tmp_path_factory: pytest.TempPathFactory, stub: StubPredictor
) -> None:
    folder = tmp_path_factory.mktemp("registration")
    document = {"name": "Ada", "email": "ada@example.com", "password": PASSWORD}
    with (
        cloned_database(postgres) as url,
        running_accounts(folder, url, stub.url, registration="closed") as accounts,
    ):
        assert accounts.stranger.send("POST", "/user/", json=document).status_code == 401
        assert accounts.administrator().send("POST", "/user/", json=document).status_code == 201
        ada = accounts.stranger.with_token(accounts.login("ada@example.com").json()["access_token"])
        assert ada.send("POST", "/user/", json=document).status_code == 403


def test_services_that_start_together_agree_on_the_signing_key(
    postgres: str, tmp_path_factory: pytest.TempPathFactory, stub: StubPredictor
) -> None:
    folder = tmp_path_factory.mktemp("together")
    with cloned_database(postgres) as url, ThreadPoolExecutor(2) as pool:
        services = [running_feedback(folder / f"log{number}", url) for number in range(2)]
        addresses = [address for address, _ in pool.map(lambda service: service.__enter__(), services)]
        try:
            document = {"name": "Ada", "email": "ada@example.com", "password": PASSWORD}
            assert httpx.post(f"{addresses[0]}/user/", json=document).status_code == 201
            form = {"username": "ada@example.com", "password": PASSWORD}
            for there, here in (addresses, addresses[::-1]):
                token = httpx.post(f"{there}/login", data=form).json()["access_token"]
                bearer = {"Authorization": f"Bearer {token}"}
                assert httpx.get(f"{here}/user/me", headers=bearer).status_code == 200
        finally:
            for service in services:
                service.__exit__(None, None, None)
        assert rows(url, "SELECT count(*) FROM signing_keys") == [(1,)]


def test_predictions_go_on_without_the_feedback_service(
    postgres: str, tmp_path_factory: pytest.TempPathFactory, stub: StubPredictor
) -> None:
    folder = tmp_path_factory.mktemp("away")
    with cloned_database(postgres) as url, running_accounts(folder, url, stub.url, mode="accounts") as accounts:
        person = accounts.register()
        accounts.feedback.kill()
        accounts.feedback.wait()
        assert submit(person).status_code == 200
        for method, path in (("POST", "/login"), ("GET", "/user/me"), ("GET", "/feedback/"), ("POST", "/user/")):
            reply = person.send(method, path, content=b"x" if method == "POST" else None)
            assert reply.status_code == 503
            assert reply.headers["Retry-After"]
            assert reply.json()["error"] == "Accounts and feedback cannot be reached now. Try again later."


def test_secrets_are_in_no_log(opened: Accounts) -> None:
    person = opened.register()
    key = person.send("POST", "/user/me/keys", json={"name": "k"}).json()["key"]
    person.with_token(key).send("GET", "/user/me")
    logs = "".join((opened.proxy.log.parent / name).read_text() for name in ("proxy", "feedback"))
    assert "/user/me" in logs
    assert not [secret for secret in (PASSWORD, key, person.token, SECRET, "$argon2") if secret in logs]
