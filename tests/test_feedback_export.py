"""The way of feedback into training: the tar, Label Studio and back."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accounts_server import running_accounts
from feedback_server import FeedbackService, User, add_prediction, end_retention, know_labels, running_feedback
from pictures import draw, encode
from queue_server import ASYNC, MODEL, StubPredictor, answers, photo, rows

WAITING = {**ASYNC, "Prefer": "respond-async, wait=20"}
ANNOTATOR = {"id": 7, "email": "annotator@example.com"}


@pytest.fixture
def service(database_url: str, tmp_path: Any) -> Iterator[FeedbackService]:
    know_labels(database_url)
    with running_feedback(tmp_path / "log", database_url) as running:
        yield running


def picture(number: int) -> bytes:
    return encode(draw(40 + number, 32), "PNG")


def judge(service: FeedbackService) -> User:
    """Have three people judge five pictures, and return an administrator."""
    url = service.database_url
    one, two, three = (service.user() for _ in range(3))
    first, second, tied, unknown, _ = (
        add_prediction(url, "cat", 0.5 + number / 10, picture=picture(number)) for number in range(5)
    )
    one.give(first, correct=True)
    for person, label in ((one, "dog"), (two, "dog"), (three, "bird")):
        person.give(second, correct_class=label)
    one.give(tied, correct_class="dog")
    two.give(tied, correct_class="bird")
    one.give(unknown, correct=False)
    one.give(add_prediction(url, "frog"), correct=True)
    return service.user(admin=True)


def exported(admin: User, **query: str) -> dict[str, bytes]:
    reply = admin.get("/feedback/export", params=query)
    assert reply.status_code == 200, reply.text
    assert int(reply.headers["content-length"]) == len(reply.content)
    return unpacked(reply.content)


def unpacked(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def lines(content: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content["labels.jsonl"].splitlines()]


def test_the_tar_has_each_picture_once_with_the_class_that_most_named(service):
    content = exported(judge(service))
    found = {content[line["image"]]: line for line in lines(content)}
    assert set(found) == {picture(0), picture(1)}
    assert (found[picture(0)]["label"], found[picture(1)]["label"]) == ("cat", "dog")
    assert (found[picture(1)]["votes"], found[picture(1)]["judges"]) == (2, 3)
    assert len(content) == 3


def test_pictures_kept_outside_of_the_database_are_shown_exported_and_kept_as_long(
    database_url: str, tmp_path: Path
) -> None:
    store, (judged, unjudged) = tmp_path / "images", (photo(), photo())
    with (
        StubPredictor(answers("cat")) as stub,
        running_accounts(tmp_path, database_url, stub.url, image_store=f"file://{store}") as accounts,
    ):
        admin = accounts.administrator()
        first, _ = (
            admin.send("POST", f"/v1/models/{MODEL}:predict", content=content, headers=WAITING).json()["id"]
            for content in (judged, unjudged)
        )
        entry = admin.send("POST", "/feedback/", json={"prediction_id": first, "correct": True}).json()
        assert rows(database_url, "SELECT count(*) FROM images WHERE content IS NULL") == [(2,)]
        end_retention(database_url, f"file://{store}")
        assert admin.send("GET", entry["links"]["image"]).content == judged
        sha256 = hashlib.sha256(judged).hexdigest()
        assert [path.name for path in store.rglob("*") if path.is_file()] == [sha256]
        content = unpacked(admin.send("GET", "/feedback/export").content)
        assert content[f"images/{sha256}.jpg"] == judged
        assert [line["label"] for line in lines(content)] == ["cat"]
        next(path for path in store.rglob(sha256)).unlink()
        assert admin.send("GET", entry["links"]["image"]).status_code == 503


def test_filters_choose_what_is_exported(service):
    admin = judge(service)
    assert exported(admin, version="2") == {"labels.jsonl": b""}
    assert len(exported(admin, version="1")) == 3


def test_an_export_of_nothing_is_an_empty_tar(service):
    admin = service.user(admin=True)
    assert exported(admin) == {"labels.jsonl": b""}
    assert admin.get("/feedback/export", params={"format": "label-studio"}).json() == []


def test_only_administrators_export_and_import(service):
    for stranger, status in ((service.user(), 403), (service.anonymous, 401)):
        assert stranger.get("/feedback/export").status_code == status
        assert stranger.request("POST", "/feedback/import", json=[]).status_code == status
    assert service.user(admin=True).get("/feedback/export?format=zip").status_code == 400


def test_tasks_for_label_studio_have_all_that_was_judged(service):
    reply = judge(service).get("/feedback/export", params={"format": "label-studio", "images": "s3://bucket/"})
    tasks = reply.json()
    assert len(tasks) == 4
    said = {}
    for task in tasks:
        assert task["data"]["image"].startswith("s3://bucket/images/")
        for prediction in task["predictions"]:
            (choice,) = prediction["result"]
            assert (choice["from_name"], choice["to_name"], choice["type"]) == ("label", "image", "choices")
        said[task["data"]["sha256"]] = [one["result"][0]["value"]["choices"][0] for one in task["predictions"]]
    assert sorted(said.values()) == [["cat"], ["cat"], ["cat", "cat"], ["cat", "dog"]]


def annotated(tasks: list[dict[str, Any]], label: str, by: object = ANNOTATOR) -> list[dict[str, Any]]:
    result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}]
    return [{**task, "annotations": [{"completed_by": by, "result": result}]} for task in tasks]


def test_annotations_come_back_as_one_judge_more(service):
    admin = judge(service)
    tasks = admin.get("/feedback/export", params={"format": "label-studio"}).json()
    for label in ("bird", "dog"):  # the second time the annotator's mind has changed
        reply = admin.request("POST", "/feedback/import", json=annotated(tasks, label))
        assert reply.status_code == 200, reply.text
        assert reply.json() == {"annotations": 4, "imported": 4, "feedback": 4, "skipped": 0, "problems": []}
    content = exported(admin)
    labels = {content[line["image"]]: (line["label"], line["judges"]) for line in lines(content)}
    # One word against another leaves the first picture without a label; the tie and the unknown one have one now.
    assert labels == {picture(1): ("dog", 4), picture(2): ("dog", 3), picture(3): ("dog", 2)}


def test_another_annotator_is_another_judge(service):
    admin = judge(service)
    tasks = admin.get("/feedback/export", params={"format": "label-studio"}).json()
    for number in (1, 2):
        admin.request("POST", "/feedback/import", json=annotated(tasks, "cat", by=number))
    content = exported(admin)
    labels = {content[line["image"]]: (line["label"], line["votes"]) for line in lines(content)}
    assert labels[picture(0)] == ("cat", 3)


def test_what_cannot_be_imported_is_named_and_the_rest_is_kept(service):
    admin = judge(service)
    tasks = admin.get("/feedback/export", params={"format": "label-studio"}).json()
    good, wrong_class, no_choice, skipped = annotated(tasks, "dog")
    wrong_class = annotated([wrong_class], "unicorn")[0]
    no_choice["annotations"][0]["result"] = []
    skipped["annotations"][0]["was_cancelled"] = True
    foreign = annotated([{"data": {"image": "/elsewhere/1.png"}}], "dog")[0]
    unknown = annotated([{"data": {"image": f"images/{'0' * 64}.png"}}], "dog")[0]
    reply = admin.request("POST", "/feedback/import", json=[good, wrong_class, no_choice, skipped, foreign, unknown])
    done = reply.json()
    assert (done["annotations"], done["imported"], done["skipped"]) == (5, 1, 4)
    assert [
        (one["task"], word in one["reason"])
        for one, word in zip(done["problems"], ["no class", "one choice", "no picture", "no feedback"], strict=True)
    ] == [(1, True), (2, True), (4, True), (5, True)]
    assert rows(service.database_url, "SELECT count(*) FROM feedback WHERE comment = 'From Label Studio'") == [(1,)]


@pytest.mark.parametrize("text", ["'); DROP TABLE feedback; --", "%s :name", "<img src=x onerror=alert(1)>"])
def test_injected_annotations_are_judges_and_classes_by_strange_names(service, text):
    admin = judge(service)
    tasks = admin.get("/feedback/export", params={"format": "label-studio", "images": text}).json()
    assert all(task["data"]["image"].startswith(text) for task in tasks)
    named = admin.request("POST", "/feedback/import", json=annotated(tasks, "dog", by=text)).json()
    assert (named["imported"], named["problems"]) == (4, [])
    meant = admin.request("POST", "/feedback/import", json=annotated(tasks, text)).json()
    assert (meant["imported"], len(meant["problems"])) == (0, 4)
    assert repr(text) in meant["problems"][0]["reason"]
    assert exported(admin, model=text) == {"labels.jsonl": b""}


@pytest.mark.parametrize("content", [b"{", b'{"a": 1}', b"[7]", b'[{"data": {}, "annotations": [7]}]', b"[" * 100_000])
def test_what_is_no_export_of_label_studio_is_refused(service, content):
    reply = service.user(admin=True).request("POST", "/feedback/import", content=content)
    assert reply.status_code in {400, 422}, reply.text
    assert set(reply.json()) == {"error"}
