"""Before a rollout says that a model serves, it asks for a prediction as the callers do: through the door."""

from __future__ import annotations

import asyncio

import pytest

from model_server.errors import Conflict
from model_server.queue_proxy.split import place_of
from model_server.up import door
from model_server.up.door import Door, first_place
from scripted_server import Entry, closed_url, scripted

PREDICT, METADATA = ("POST", "/v1/models/a%2Fb:predict"), ("GET", "/v2/models/a%2Fb")


def answer(version: str | None, status: int = 200) -> Entry:
    return status, {"Model-Version": version} if version else {}, b"{}"


def try_out(url: str, *, is_open: bool = True, per_cent: int = 100) -> None:
    asyncio.run(Door(url, is_open).try_out("a/b", "2", first_place(per_cent)))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "PATIENCE_SECONDS", 0.5)


@pytest.mark.parametrize(
    ("is_open", "script", "asked"),
    [
        (True, [answer("2")], [PREDICT]),
        (True, [answer("1"), answer(None, 503), None, answer("2")], [PREDICT] * 4),
        (True, [answer(None, 429), answer("2")], [PREDICT, METADATA]),
        (False, [answer("2")], [METADATA]),
        (False, [answer("1"), answer("2")], [METADATA] * 2),
    ],
)
def test_the_new_version_is_waited_for(is_open: bool, script: list[Entry], asked: list[tuple[str, str]]) -> None:
    with scripted(*script) as (url, server):
        try_out(url, is_open=is_open)
    assert [request[:2] for request in server.requests] == asked


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer("1"), "version 1 answers"),
        (answer(None), "version None answers"),
        (answer("2", 500), "the answer has the status 500"),
        (answer("2", 401), "the answer has the status 401"),
        (None, "there is no answer"),
    ],
)
@pytest.mark.parametrize("is_open", [True, False])
def test_it_is_said_why_the_new_version_does_not_answer(is_open: bool, reply: Entry, reason: str) -> None:
    with (
        scripted(reply) as (url, _),
        pytest.raises(Conflict, match=f"a/b 2 is taken back: asked through {url}, {reason}"),
    ):
        try_out(url, is_open=is_open)


def test_a_door_that_is_away_is_said() -> None:
    with pytest.raises(Conflict, match="there is no answer"):
        try_out(closed_url())


@pytest.mark.parametrize("per_cent", [1, 10, 50, 99, 100])
def test_a_canary_is_asked_as_one_of_its_own_callers(per_cent: int) -> None:
    with scripted(answer("2")) as (url, server):
        try_out(url, per_cent=per_cent)
    (key,) = {request[2] for request in server.requests}
    assert place_of(key or "") >= first_place(per_cent)
