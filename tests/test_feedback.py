"""Giving feedback, over HTTP and on a real PostgreSQL: whose word counts, on what, and who sees it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from conftest import cloned_database
from feedback_server import LABELS, FeedbackService, add_prediction, end_retention, know_labels, running_feedback
from queue_server import rows, running_proxy

PICTURE = b"\x89PNG the content does not matter here"
INJECTIONS = [
    "'); DROP TABLE feedback; --",
    "%s %(x)s :name \\' \" ${7*7} {{7*7}}",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\u202e \u200b \U0001f600 \ufdfd e\u0301",
]


@pytest.fixture(scope="module")
def service(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedbackService]:
    with cloned_database(postgres) as url:
        know_labels(url)
        with running_feedback(tmp_path_factory.mktemp("feedback") / "log", url) as running:
            yield running


@pytest.fixture(scope="module")
def closed(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedbackService]:
    """A service in mode `accounts`."""
    with cloned_database(postgres) as url:
        know_labels(url)
        with running_feedback(tmp_path_factory.mktemp("closed") / "log", url, mode="accounts") as running:
            yield running


def test_the_prediction_fills_in_what_is_left_out(service):
    prediction = add_prediction(service.database_url, "cat", 0.75, picture=PICTURE)
    reply = service.user().give(prediction, correct_class="dog", feedback="It barks.", image_file_name="rex.png")
    assert reply.status_code == 201, reply.text
    entry = reply.json()
    assert (
        entry.items()
        >= {
            "prediction_id": str(prediction),
            "model": "pets",
            "model_version": "1",
            "predicted_class": "cat",
            "score": 0.75,
            "correct": False,
            "correct_class": "dog",
            "feedback": "It barks.",
            "image_file_name": "rex.png",
        }.items()
    )


def test_a_second_word_of_the_same_user_replaces_the_first(service):
    prediction = add_prediction(service.database_url)
    one, other = service.user(), service.user()
    first = one.give(prediction, correct_class="dog", feedback="a dog").json()
    other.give(prediction, correct=True)
    second = one.give(prediction, correct=True).json()
    assert (second["id"], second["correct"], second["feedback"]) == (first["id"], True, "")
    found = rows(service.database_url, "SELECT is_right FROM feedback WHERE prediction_id = %s ORDER BY id", prediction)
    assert found == [(True,), (True,)]


def test_many_words_at_the_same_moment_leave_one(service):
    prediction, user = add_prediction(service.database_url), service.user()
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda number: user.give(prediction, correct_class=LABELS[number % 4]), range(48)))
    assert {reply.status_code for reply in replies} == {201}
    assert len({reply.json()["id"] for reply in replies}) == 1
    assert rows(service.database_url, "SELECT count(*) FROM feedback WHERE prediction_id = %s", prediction) == [(1,)]


def test_nameless_browsers_are_told_apart_and_nobody_is_one_voice(service):
    prediction = add_prediction(service.database_url)
    ids = [service.browser(cookie).give(prediction, correct=True).json()["id"] for cookie in "aab"]
    assert ids[0] == ids[1] != ids[2]
    nobody = [service.anonymous.give(prediction, correct=True).json()["id"] for _ in range(2)]
    assert nobody[0] == nobody[1]
    assert nobody[0] not in ids


def test_a_browser_is_given_a_cookie_that_leaves_the_feedback_routes_nowhere(service):
    reply = service.anonymous.get("/feedback/")
    assert reply.json() == {"feedback": [], "next_cursor": None}
    cookie = reply.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/feedback"))
    assert "set-cookie" not in service.browser("c").get("/feedback/").headers
    assert "set-cookie" not in service.user().get("/feedback/").headers


@pytest.mark.parametrize(
    ("said", "correct", "correct_class"),
    [
        ({"correct_class": "cat"}, True, "cat"),
        ({"correct_class": "frog"}, False, "frog"),
        ({"correct": True}, True, "cat"),
        ({"correct": False}, False, None),
        ({"feedback": "only a remark"}, None, None),
    ],
)
def test_what_counts_as_a_verdict(service, said, correct, correct_class):
    entry = service.user().give(add_prediction(service.database_url), **said).json()
    assert (entry["correct"], entry["correct_class"]) == (correct, correct_class)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"correct_class": "unicorn"}, "'unicorn' is no class of pets 1; its classes are bird, cat"),
        ({"correct_class": "cat", "correct": False}, "contradicts"),
        ({"predicted_class": "dog"}, "\"predicted_class\" is 'cat' in this prediction"),
        ({"model": "cars"}, "\"model\" is 'pets'"),
        ({"feedback": "x" * 2001}, "0 to 2,000 characters"),
        ({"feedback": "a\0b"}, "a character that cannot be kept"),
        ({"feedback": 7}, '"feedback" is a text'),
        ({"score": 1.5}, '"score" is a number from 0 to 1'),
        ({"score": True}, '"score" is a number from 0 to 1'),
        ({"correct": "yes"}, '"correct" is true or false'),
        ({"prediction_id": "7"}, "a UUID"),
        ({"prediction_id": 7}, "a UUID"),
        ({"stars": 5}, "Unknown field 'stars'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(service, said, message):
    reply = service.user().give(add_prediction(service.database_url), **said)
    assert reply.status_code == 422, reply.text
    assert message in reply.json()["error"]


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"feedback": "\\ud800"}', "application/json", 422),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b'{"feedback": "' + b"x" * 70_000 + b'"}', "application/json", 413),
    ],
)
def test_bodies_that_are_no_feedback(service, content, media_type, status):
    headers = {"Content-Type": media_type} if media_type else {}
    reply = service.user().request("POST", "/feedback/", content=content, headers=headers)
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}


def test_predictions_that_cannot_be_judged(service):
    user, url = service.user(), service.database_url
    someone = service.user().id
    assert user.give("0190c3a0-0000-7000-8000-000000000000", correct=True).status_code == 404
    assert user.give(add_prediction(url, user=someone), correct=True).status_code == 404
    assert user.give(add_prediction(url, status="running"), correct=True).status_code == 409
    assert user.give(add_prediction(url, status="failed"), correct=True).status_code == 409
    several = user.give(add_prediction(url, images=2), correct=True)
    assert (several.status_code, "one image" in several.json()["error"]) == (422, True)


def test_feedback_without_a_prediction_needs_all_fields_and_real_classes(service):
    full = {"score": 0.5, "predicted_class": "cat", "image_file_name": "a.png", "feedback": "fine"}
    reply = service.anonymous.give(**full)
    assert reply.status_code == 201, reply.text
    assert reply.json().items() >= {**full, "model": "pets", "prediction_id": None, "correct": None}.items()
    for name in full:
        missing = service.anonymous.give(**{key: value for key, value in full.items() if key != name})
        assert (missing.status_code, f'"{name}" is missing' in missing.text.replace("\\", "")) == (422, True)
    wrong = service.anonymous.give(**full | {"predicted_class": "unicorn"})
    assert (wrong.status_code, "no class of pets" in wrong.json()["error"]) == (422, True)
    assert service.anonymous.give(**full, model="cars").status_code == 422


def test_classes_that_are_not_known_yet_are_no_fault_of_the_caller(service):
    prediction = add_prediction(service.database_url, version="unheard-of")
    reply = service.user().give(prediction, correct_class="dog")
    assert (reply.status_code, "not known yet" in reply.json()["error"]) == (503, True)
    assert "Retry-After" in reply.headers
    assert service.user().give(prediction, correct=True).status_code == 201
    know_labels(service.database_url, version="unheard-of")
    assert service.user().give(prediction, correct_class="dog").status_code == 201


@pytest.mark.parametrize("text", INJECTIONS)
def test_injected_text_comes_back_as_text(service, text):
    user, prediction = service.user(), add_prediction(service.database_url)
    assert user.give(prediction, feedback=text, image_file_name=text, correct=True).status_code == 201
    (entry,) = user.get("/feedback/").json()["feedback"]
    assert (entry["feedback"], entry["image_file_name"]) == (text, text)
    for name in ("predicted_class", "correct_class", "model", "model_version"):
        assert user.give(prediction, **{name: text}).status_code == 422
    for path in ("/feedback/report", "/feedback/labels"):
        assert user.get(path, params={"model": text, "version": text}).status_code in {200, 404}
    assert rows(service.database_url, "SELECT count(*) > 0 FROM feedback") == [(True,)]


def test_ones_own_feedback_is_paged_newest_first(service):
    user = service.user()
    given = [user.give(add_prediction(service.database_url), correct=True).json()["id"] for _ in range(5)]
    service.user().give(add_prediction(service.database_url), correct=True)
    found, cursor = [], None
    while True:
        page = user.get("/feedback/", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        found += [entry["id"] for entry in page["feedback"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == given[::-1]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "cursor=%00", "cursor=abc", "all=maybe"])
def test_wrong_pages_are_refused(service, query):
    assert service.user().get(f"/feedback/?{query}").status_code == 400


def test_nobody_sees_anothers_feedback_and_an_administrator_all(service):
    owner, other, admin = service.user(), service.user(), service.user(admin=True)
    entry = owner.give(add_prediction(service.database_url, picture=PICTURE), correct=True).json()
    path, image = f"/feedback/{entry['id']}", entry["links"]["image"]
    for stranger in (other, service.anonymous, service.browser("d")):
        assert stranger.get("/feedback/", params={"all": "true"}).status_code == 403
        assert entry["id"] not in stranger.get("/feedback/").text
        assert stranger.get(image).status_code == 404
        assert stranger.request("DELETE", path).status_code == 404
    assert entry["id"] in admin.get("/feedback/", params={"all": "true"}).text
    for seeing in (owner, admin):
        reply = seeing.get(image)
        assert (reply.status_code, reply.content, reply.headers["content-type"]) == (200, PICTURE, "image/png")
        assert "sandbox" in reply.headers["content-security-policy"]
    assert owner.request("DELETE", path).status_code == 204
    assert owner.request("DELETE", path).status_code == 404


def test_what_nobody_owns_is_for_all_to_see_and_for_its_browser_to_take_back(service):
    entry = service.browser("e").give(add_prediction(service.database_url, picture=PICTURE), correct=True).json()
    assert service.browser("f").get(entry["links"]["image"]).status_code == 200
    assert service.browser("f").request("DELETE", f"/feedback/{entry['id']}").status_code == 403
    assert service.anonymous.request("DELETE", f"/feedback/{entry['id']}").status_code == 403
    assert service.browser("e").request("DELETE", f"/feedback/{entry['id']}").status_code == 204


def test_no_cookie_speaks_for_a_user(service):
    user, prediction = service.user(), add_prediction(service.database_url)
    user.give(prediction, correct=True)
    forged = service.anonymous.request(
        "POST",
        "/feedback/",
        json={"prediction_id": str(prediction), "correct": False},
        headers={"Cookie": f"model-server-visitor={user.id}"},
    )
    assert forged.status_code == 201
    assert user.get("/feedback/").json()["feedback"][0]["correct"] is True


def test_in_mode_accounts_what_nobody_owns_is_for_no_user_to_judge(closed):
    assert closed.user().give(add_prediction(closed.database_url), correct=True).status_code == 404


def test_a_deleted_users_feedback_stays_without_the_name(service):
    user, prediction = service.user(), add_prediction(service.database_url, picture=PICTURE)
    entry = user.give(prediction, correct_class="dog").json()
    service.browser("g").give(prediction, correct_class="dog")
    rows(service.database_url, "DELETE FROM users WHERE id = %s RETURNING id", user.id)
    stays = rows(service.database_url, "SELECT user_id, correct_class FROM feedback WHERE id = %s", entry["id"])
    assert stays == [(None, "dog")]
    assert service.anonymous.get(entry["links"]["image"]).status_code == 404
    assert service.browser("g").give(prediction, correct=True).status_code == 201
    assert rows(service.database_url, "SELECT count(*) FROM feedback WHERE prediction_id = %s", prediction) == [(2,)]


def test_feedback_and_its_picture_outlive_the_prediction(service):
    kept, forgotten = PICTURE + b"kept", PICTURE + b"forgotten"
    user, url = service.user(), service.database_url
    prediction = add_prediction(url, picture=kept)
    add_prediction(url, picture=forgotten)
    entry = user.give(prediction, correct_class="dog").json()
    before = sum(version["predictions"] for version in service.anonymous.get("/feedback/report").json()["versions"])
    end_retention(url)
    assert rows(url, "SELECT count(*) FROM predictions") == [(0,)]
    assert user.get(entry["links"]["image"]).content == kept
    assert rows(url, "SELECT count(*) FROM images WHERE content = %s", forgotten) == [(0,)]
    after = service.anonymous.get("/feedback/report").json()["versions"]
    assert sum(version["predictions"] for version in after) == before > 0
    assert user.give(prediction, correct=True).status_code == 404


def test_labels_are_learned_before_the_first_prediction_and_known_without_the_predictor(server, postgres, tmp_path):
    with (
        cloned_database(postgres) as url,
        running_proxy(tmp_path / "proxy", url, server.url, model=server.model),
    ):
        deadline = time.monotonic() + 20
        while not (known := rows(url, "SELECT model, model_version, labels FROM model_labels")):
            assert time.monotonic() < deadline, "labels were never learned"
            time.sleep(0.1)
        with running_feedback(tmp_path / "feedback", url) as service:
            labels = service.anonymous.get("/feedback/labels").json()
    metadata = httpx.get(f"{server.url}/v2/models/{server.model}").json()
    assert labels["labels"] == metadata["outputs"][-1]["parameters"]["labels"]
    assert known == [(labels["model"], labels["version"], labels["labels"])]
    assert len(labels["labels"]) == 10
