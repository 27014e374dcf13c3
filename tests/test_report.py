"""The report's figures against sets made by hand, whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from conftest import cloned_database
from feedback_server import FeedbackService, User, add_prediction, know_labels, running_feedback
from model_server.feedback.statistics import Agreement, Proportion

MONDAY, TUESDAY = datetime(2026, 3, 2, 23, 59, tzinfo=UTC), datetime(2026, 3, 3, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        # R: prop.test(81, 263, correct = FALSE), the example of Newcombe 1998, and its table's extremes.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilsons_interval(count, total, low, high):
    interval = Proportion(count, total).interval
    assert interval == pytest.approx((low, high), abs=5e-5)


def test_of_nothing_there_is_no_proportion():
    assert (Proportion(0, 0).share, Proportion(0, 0).interval) == (None, None)


def test_krippendorffs_alpha_of_his_own_example():
    # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", part C: four observers, nominal, 0.743.
    units = ["111", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", "555", "11", "3"]
    paired = [unit for unit in units if len(unit) > 1]
    squares = [sum(unit.count(value) ** 2 for value in set(unit)) for unit in paired]
    agreement = Agreement(
        pictures=len(paired),
        unanimous=sum(len(set(unit)) == 1 for unit in paired),
        votes=sum(map(len, paired)),
        disagreement=sum(
            (len(unit) ** 2 - square) / (len(unit) - 1) for unit, square in zip(paired, squares, strict=True)
        ),
        squares=sum("".join(paired).count(value) ** 2 for value in "12345"),
    )
    assert agreement.votes == 40
    assert agreement.alpha == pytest.approx(0.743, abs=5e-4)


class Story:
    """Two versions of a model over two days, and what three people and a browser said.

    Version 1, Monday: 4 predictions, of which cat is right, cat is a dog, dog is a dog by two and a cat by one, and one
    nobody judged. Tuesday: bird, on which two disagree, and a frog that is "wrong" without saying what instead.
    Version 2, Tuesday: the dog that version 1 took for a cat, found; 2 not judged. And words about no prediction.
    """

    def __init__(self, service: FeedbackService) -> None:
        self.service = service
        url = service.database_url
        self.people: list[User] = [service.user(name) for name in ("ann", "bob", "cem")]
        self.admin = service.user("root", admin=True)
        self.browser = service.browser("s")
        ann, bob, cem = self.people

        def predict(label: str, score: float, at: datetime, version: str = "1", **given: Any) -> UUID:
            picture = given.pop("picture", f"{label}{score}{at}").encode()
            return add_prediction(url, label, score, at=at, version=version, picture=picture, **given)

        ann.give(predict("cat", 0.9, MONDAY), correct=True)
        self.mistaken = predict("cat", 0.99, MONDAY, picture="rex")
        self.browser.give(self.mistaken, correct_class="dog", feedback="<b>Rex!</b>")
        debated = predict("dog", 0.6, MONDAY)
        ann.give(debated, correct=True)
        bob.give(debated, correct=True)
        cem.give(debated, correct_class="cat")
        predict("cat", 0.5, MONDAY)
        tied = predict("bird", 0.7, TUESDAY)
        ann.give(tied, correct=True)
        bob.give(tied, correct_class="frog")
        cem.give(tied, feedback="I cannot tell.")
        ann.give(predict("frog", 0.4, TUESDAY), correct=False)
        cem.give(predict("dog", 0.8, TUESDAY, "2", picture="rex"), correct=True)
        predict("cat", 0.5, TUESDAY, "2")
        predict("cat", 0.5, TUESDAY, "2")
        for status in ("failed", "cancelled", "running"):
            predict("cat", 0.5, TUESDAY, "2", status=status)
        ann.give(
            score=0.5, predicted_class="cat", image_file_name="", feedback="", correct_class="cat", model_version="2"
        )
        ann.give(
            score=0.5, predicted_class="cat", image_file_name="", feedback="", correct_class="dog", model_version="2"
        )

    def report(self, viewer: User | None = None, **query: str) -> dict[str, Any]:
        reply = (viewer or self.admin).get("/feedback/report", params=query)
        assert reply.status_code == 200, reply.text
        document: dict[str, Any] = reply.json()
        return document


@pytest.fixture(scope="module")
def story(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with cloned_database(postgres) as url:
        for version in ("1", "2"):
            know_labels(url, version=version)
        with running_feedback(tmp_path_factory.mktemp("report") / "log", url) as service:
            yield Story(service)


def figures(version: dict[str, Any]) -> dict[str, Any]:
    counts = {name: version[name] for name in ("predictions", "right", "wrong", "disputed")}
    return {**counts, "judged": version["judged"]["count"], "accuracy": version["accuracy"]["share"]}


def test_each_version_has_its_own_figures(story):
    one, two = story.report()["versions"]
    assert [(version["model"], version["version"]) for version in (one, two)] == [("pets", "1"), ("pets", "2")]
    assert figures(one) == {"predictions": 6, "judged": 5, "right": 2, "wrong": 2, "disputed": 1, "accuracy": 0.5}
    assert figures(two) == {"predictions": 3, "judged": 1, "right": 1, "wrong": 0, "disputed": 0, "accuracy": 1.0}
    assert two["without_prediction"] == {"judged": 2, "right": 1}


def test_wilsons_interval_is_beside_every_proportion(story):
    def proportions(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict) and "share" in value:
            yield value
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from proportions(inner)

    found = list(proportions(story.report()))
    assert len(found) == 19
    for one in found:
        interval = Proportion(one["count"], one["total"]).interval
        assert (one["low"], one["high"]) == (pytest.approx(interval, abs=1e-4) if interval else (None, None))


def test_days_are_those_of_the_predictions_in_utc(story):
    one, two = story.report()["versions"]
    assert [(day["day"], figures(day)) for day in one["days"]] == [
        ("2026-03-02", {"predictions": 4, "judged": 3, "right": 2, "wrong": 1, "disputed": 0, "accuracy": 0.6667}),
        ("2026-03-03", {"predictions": 2, "judged": 2, "right": 0, "wrong": 1, "disputed": 1, "accuracy": 0.0}),
    ]
    assert [day["day"] for day in two["days"]] == ["2026-03-03"]


def test_confusion_and_worst_classes(story):
    one = story.report()["versions"][0]
    pairs = {(pair["predicted"], pair["correct"]): pair["count"] for pair in one["confusion"]}
    assert pairs == {("cat", "cat"): 1, ("cat", "dog"): 1, ("dog", "dog"): 1, ("frog", None): 1}
    classes = {row["class"]: row for row in one["classes"]}
    assert one["classes"][0]["class"] == "frog"
    assert (classes["cat"]["precision"]["count"], classes["cat"]["precision"]["total"]) == (1, 2)
    assert (classes["dog"]["recall"]["count"], classes["dog"]["recall"]["total"]) == (1, 2)


def test_how_far_people_agree_on_one_picture(story):
    # Rex was judged in two predictions, by the browser and by Cem: both say dog. The dog has 2 : 1, the bird 1 : 1.
    agreement = story.report()["agreement"]
    assert (agreement["pictures"], agreement["unanimous"]["count"], agreement["unanimous"]["total"]) == (3, 1, 3)
    # Votes: dog 2, dog 2 + cat 1, bird 1 + frog 1; disagreement (9-5)/2 + (4-2)/1 = 4; dog 4, cat 1, bird 1, frog 1.
    assert agreement["krippendorff_alpha"] == round(1 - (7 - 1) * 4 / (7**2 - (16 + 1 + 1 + 1)), 4)


def test_worst_mistakes_are_those_the_model_was_surest_of(story):
    mistakes = story.report()["mistakes"]
    assert [(one["predicted_class"], one["correct_class"], one["score"]) for one in mistakes] == [
        ("cat", "dog", 0.99),
        ("frog", None, 0.4),
    ]
    assert mistakes[0]["feedback"] == "<b>Rex!</b>"
    assert story.admin.get(mistakes[0]["links"]["image"]).content == b"rex"


def test_others_see_the_figures_and_only_the_pictures_they_may(story):
    ann, bob, _ = story.people
    full = story.report()
    for viewer, wanted in ((story.service.anonymous, ["cat"]), (bob, ["cat"]), (ann, ["cat", "frog"])):
        seen = story.report(viewer)
        assert seen["versions"] == full["versions"]
        assert [one["predicted_class"] for one in seen["mistakes"]] == wanted


def test_filters_choose_model_version_and_days(story):
    assert [version["version"] for version in story.report(version="2")["versions"]] == ["2"]
    assert story.report(model="cars")["versions"] == []
    (monday,) = story.report(**{"from": "2026-03-01", "to": "2026-03-02"})["versions"]
    assert figures(monday)["predictions"] == 4
    tuesday = story.report(**{"from": "2026-03-03"})
    assert [figures(version)["judged"] for version in tuesday["versions"]] == [2, 1]
    assert tuesday["agreement"]["pictures"] == 1


@pytest.mark.parametrize(
    "query",
    [{"from": "yesterday"}, {"to": "2026-02-30"}, {"from": "2026-03-03", "to": "2026-03-02"}, {"to": "0001-01-01"}],
)
def test_impossible_days_are_refused_in_words(story, query):
    reply = story.admin.get("/feedback/report", params=query)
    assert (reply.status_code, "day" in reply.json()["error"]) == (400, True)
