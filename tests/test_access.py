"""Every route of both services, and what each answers to whom: a table, in mode `accounts`."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from accounts_server import SECRET, Accounts, Person, running_accounts
from conftest import cloned_database
from feedback_server import know_labels
from model_server.accounts import tokens
from pictures import b64
from queue_server import ASYNC, IMAGE, MODEL, VERSION, StubPredictor, answers, photo


@pytest.fixture(scope="module")
def closed(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    with (
        StubPredictor(answers()) as stub,
        cloned_database(postgres) as url,
        running_accounts(tmp_path_factory.mktemp("access"), url, stub.url, mode="accounts") as running,
    ):
        know_labels(url, MODEL, VERSION)
        yield running


@pytest.fixture(scope="module")
def admin(closed: Accounts) -> Person:
    return closed.administrator()


def claims(person: Person, **changed: object) -> dict[str, object]:
    now = int(time.time())
    return {"sub": person.id, "aud": tokens.AUDIENCE, "iat": now, "exp": now + 600, **changed}


def unsigned(payload: dict[str, object]) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, payload)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."


def without(payload: dict[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in payload.items() if key != name}


FORGERIES: dict[str, Callable[[Person], str]] = {
    "expired": lambda person: jwt.encode(claims(person, exp=int(time.time()) - 1), SECRET, "HS256"),
    "of the future": lambda person: jwt.encode(claims(person, iat=int(time.time()) + 600), SECRET, "HS256"),
    "without an end": lambda person: jwt.encode(without(claims(person), "exp"), SECRET, "HS256"),
    "without a begin": lambda person: jwt.encode(without(claims(person), "iat"), SECRET, "HS256"),
    "wrong signature": lambda person: jwt.encode(claims(person), SECRET[::-1], "HS256"),
    "alg none": lambda person: unsigned(claims(person)),
    "another algorithm": lambda person: jwt.encode(claims(person), SECRET * 2, "HS512"),
    "other audience": lambda person: jwt.encode(claims(person, aud="another-server"), SECRET, "HS256"),
    "no audience": lambda person: jwt.encode(without(claims(person), "aud"), SECRET, "HS256"),
    "not of a user": lambda person: jwt.encode(claims(person, sub="1 OR 1=1"), SECRET, "HS256"),
    "unknown user": lambda person: jwt.encode(claims(person, sub=str(uuid4())), SECRET, "HS256"),
    "no token at all": lambda _person: "nonsense",
    "unknown key": lambda _person: "msk_nonsense",
    "next to nothing": lambda _person: ".",
}

# What the owner of what the path names gets, another user, an administrator. Nobody, whoever is forged, and a user who
# was deleted get 401 on all of them.
GUARDED: dict[tuple[str, str], tuple[int, int, int]] = {
    ("POST", "/v1/models/{model}:predict"): (200, 200, 200),
    ("POST", "/v2/models/{model}/infer"): (200, 200, 200),
    ("GET", "/v1/predictions"): (200, 200, 200),
    ("GET", "/v1/predictions/{id}"): (200, 404, 200),
    ("GET", "/v1/predictions/{id}/image"): (200, 404, 200),
    ("GET", "/v1/predictions/{id}/events"): (200, 404, 200),
    ("DELETE", "/v1/predictions/{id}"): (409, 404, 409),
    ("GET", "/v1/usage"): (200, 403, 200),
    ("GET", "/v1/quotas/{user}"): (403, 403, 404),
    ("PUT", "/v1/quotas/{user}"): (403, 403, 200),
    ("DELETE", "/v1/quotas/{user}"): (403, 403, 404),
    ("POST", "/inference/image"): (200, 200, 200),
    ("GET", "/predictions/{uuid}"): (200, 404, 200),
    ("POST", "/predict"): (200, 200, 200),
    ("POST", "/model/predict"): (200, 200, 200),
    ("POST", "/inference"): (200, 200, 200),
    ("POST", "/models/{model}"): (200, 200, 200),
    ("GET", "/api/v1/statistics"): (200, 200, 200),
    ("GET", "/user/"): (200, 200, 200),
    ("GET", "/user/{id}"): (200, 403, 200),
    ("DELETE", "/user/{id}"): (204, 403, 204),
    ("GET", "/user/{id}/keys"): (200, 403, 200),
    ("POST", "/user/{id}/keys"): (201, 403, 403),
    ("DELETE", "/user/{id}/keys/{key}"): (204, 403, 204),
    ("POST", "/feedback/"): (201, 404, 201),
    ("GET", "/feedback/"): (200, 200, 200),
    ("DELETE", "/feedback/{id}"): (204, 404, 204),
    ("GET", "/feedback/{id}/image"): (200, 404, 200),
    ("GET", "/feedback/labels"): (200, 200, 200),
    ("GET", "/feedback/report"): (403, 403, 200),
    ("GET", "/feedback/export"): (403, 403, 200),
    ("POST", "/feedback/import"): (403, 403, 200),
}
# The same for everybody, whatever they show.
UNGUARDED: dict[tuple[str, str], int] = {
    ("GET", "/"): 200,
    ("GET", "/my-feedback"): 200,
    ("GET", "/report"): 200,
    ("GET", "/docs"): 200,
    ("GET", "/openapi.json"): 200,
    ("GET", "/feedback/docs"): 200,
    ("GET", "/feedback/openapi.json"): 200,
    ("GET", "/healthz"): 200,
    ("GET", "/readyz"): 200,
    ("GET", "/metrics"): 200,
    ("GET", "/api/v1/health"): 200,
    ("GET", "/login"): 200,
    ("POST", "/login"): 415,
    ("POST", "/user/"): 400,
    ("GET", "/v1/queue"): 200,
    ("GET", "/v1/models"): 200,
    ("GET", "/v1/models/{model}"): 200,
    ("GET", "/v2/models/{model}"): 200,
    ("GET", "/v2/models/{model}/ready"): 200,
    ("GET", "/v2/health/ready"): 200,
    ("GET", "/v2/health/live"): 200,
}
ROUTE_NAMES = [f"{method} {path}" for method, path in GUARDED]


class Owner:
    """Somebody with a prediction, a word on it, and an API key, all anew for each request of the table."""

    def __init__(self, accounts: Accounts) -> None:
        self.person = accounts.register()
        headers = {**ASYNC, "Prefer": "respond-async, wait=20"}
        made = self.person.send("POST", f"/v1/models/{MODEL}:predict", content=photo(), headers=headers)
        assert made.status_code == 200, made.text
        self.prediction = made.json()["id"]
        said = self.person.send("POST", "/feedback/", json={"prediction_id": self.prediction, "correct": True})
        assert said.status_code == 201, said.text
        self.feedback = said.json()["id"]
        key = self.person.send("POST", f"/user/{self.person.id}/keys", json={"name": "script"}).json()
        self.key_id, self.key = key["id"], key["key"]

    def ask(self, who: Person, method: str, path: str) -> int:
        named = {"/user": self.person.id, "/feedback": self.feedback}
        identifier = named.get(f"/{path.split('/')[1]}", self.prediction)
        ids = {"id": identifier, "uuid": self.prediction, "user": self.person.id, "key": self.key_id}
        return who.send(method, path.format(model=MODEL, **ids), **self._content(method, path)).status_code

    def _content(self, method: str, path: str) -> dict[str, Any]:
        """Return what the route needs to get as far as looking at whose it is."""
        needed: dict[tuple[str, str], dict[str, Any]] = {
            ("POST", "/v1/models/{model}:predict"): {"content": photo(), "headers": IMAGE},
            ("POST", "/v2/models/{model}/infer"): {"json": {"inputs": []}},
            ("GET", "/v1/usage"): {"params": {"user": self.person.id}},
            ("PUT", "/v1/quotas/{user}"): {"json": {"images_per_day": 7}},
            ("POST", "/inference/image"): {"json": {"name": "a.jpg", "data": b64(photo())}},
            ("POST", "/predict"): {"files": {"file": photo()}},
            ("POST", "/model/predict"): {"files": {"file": photo()}},
            ("POST", "/inference"): {"data": {"command": "predict", "metadata": "{}"}, "files": {"image": photo()}},
            ("POST", "/models/{model}"): {"content": photo(), "headers": IMAGE},
            ("GET", "/api/v1/statistics"): {"params": {"api": "predict"}},
            ("POST", "/user/{id}/keys"): {"json": {"name": "another"}},
            ("POST", "/feedback/"): {"json": {"prediction_id": self.prediction, "correct": False}},
            ("POST", "/feedback/import"): {"json": []},
        }
        return needed.get((method, path), {})


def test_every_route_of_both_documents_is_in_the_table(closed: Accounts) -> None:
    described = {
        (method.upper(), path)
        for document in ("/openapi.json", "/feedback/openapi.json")
        for path, methods in httpx.get(f"{closed.url}{document}").json()["paths"].items()
        for method in methods
    }
    assert described == {*GUARDED, *UNGUARDED}


@pytest.mark.parametrize(("method", "path"), GUARDED, ids=ROUTE_NAMES)
def test_route_knows_owner_other_user_and_administrator(
    closed: Accounts, admin: Person, method: str, path: str
) -> None:
    of_owner, of_other, of_admin = GUARDED[method, path]
    other, owner = closed.register(), Owner(closed)
    assert owner.ask(other, method, path) == of_other
    assert owner.ask(owner.person, method, path) == of_owner
    assert Owner(closed).ask(admin, method, path) == of_admin
    by_key = Owner(closed)
    assert by_key.ask(by_key.person.with_token(by_key.key), method, path) == of_owner


@pytest.mark.parametrize(("method", "path"), GUARDED, ids=ROUTE_NAMES)
def test_route_refuses_nobody_forgeries_and_the_deleted(closed: Accounts, method: str, path: str) -> None:
    owner, deleted = Owner(closed), Owner(closed)
    assert deleted.person.send("DELETE", "/user/me").status_code == 204
    shown = {name: forge(owner.person) for name, forge in FORGERIES.items()}
    shown |= {"deleted user's": deleted.person.token, "deleted user's key": deleted.key}
    got = {name: owner.ask(owner.person.with_token(token), method, path) for name, token in shown.items()}
    got["nobody"] = owner.ask(closed.stranger, method, path)
    got["basic"] = owner.ask(Person(closed.url, headers={"Authorization": "Basic YTpi"}), method, path)
    assert {name: status for name, status in got.items() if status != 401} == {}


@pytest.mark.parametrize(("method", "path"), UNGUARDED, ids=[f"{method} {path}" for method, path in UNGUARDED])
def test_route_is_the_same_for_everybody(closed: Accounts, method: str, path: str) -> None:
    owner = closed.register()
    for person in (closed.stranger, owner, *(owner.with_token(forge(owner)) for forge in FORGERIES.values())):
        got = person.send(method, path.format(model=MODEL), content=b"x" if method == "POST" else None)
        assert got.status_code == UNGUARDED[method, path], got.text


def last_bits(token: str, more: int) -> str:
    """Change bits of the last character that no byte of the signature takes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + more]


OTHER_SPELLINGS: dict[str, Callable[[str], str]] = {
    **{
        f"and {end!r}": lambda text, end=end: text + end
        for end in ("=", "==", "A", "AA", "AAAA", ".", "..", "!", "%00")
    },
    **{f"and {end!r}": lambda text, end=end: text + end for end in ("\x0b", "\xa0", "\x85", " x", ",", ";", '"')},
    **{f"{begin!r} before": lambda text, begin=begin: begin + text for begin in ("=", ".", "A", "\t", '"', "Bearer ")},
    "a character no base64 has": lambda text: text[:-5] + "!" + text[-5:],
    "padding before the end": lambda text: text[:-1] + "=" + text[-1],
    "one character less": lambda text: text[:-1],
    "upper case": str.upper,
    "twice": lambda text: f"{text}, Bearer {text}",
    "other spare bits": lambda text: last_bits(text, 1),
    "all spare bits": lambda text: last_bits(text, 3),
    "another first part": lambda text: text.replace(".", "=.", 1),
    "a space within": lambda text: text.replace(".", " .", 1),
}


def raw_status(url: str, *authorizations: str) -> int:
    lines = "".join(f"Authorization: {given}\r\n" for given in authorizations)
    head = f"GET /user/me HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n".encode("latin-1")
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20) as connection:
        connection.sendall(head)
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("kind", ["token", "key"])
def test_a_token_and_a_key_have_one_spelling(closed: Accounts, kind: str) -> None:
    owner = Owner(closed)
    text = owner.person.token if kind == "token" else owner.key
    for url in (closed.url, closed.feedback_url):
        assert {raw_status(url, f"{scheme} {text}") for scheme in ("Bearer", "bearer", "BEARER", "Bearer  ")} == {200}
        others = {name: change(text) for name, change in OTHER_SPELLINGS.items()}
        got = {name: raw_status(url, f"Bearer {other}") for name, other in others.items() if other != text}
        assert {name: status for name, status in got.items() if status not in {400, 401}} == {}
        assert {name for name, status in got.items() if status == 400} <= {r"and '\x0b'"}, "no field may hold that"


@pytest.mark.parametrize("second", ["the same", "another's", "Basic YTpi", "nothing"])
def test_several_credentials_are_none(closed: Accounts, second: str) -> None:
    mine = f"Bearer {closed.register().token}"
    other = {"the same": mine, "another's": f"Bearer {closed.register().token}", "nothing": ""}.get(second, second)
    for url in (closed.url, closed.feedback_url):
        assert raw_status(url, mine, other) == raw_status(url, other, mine) == 401
