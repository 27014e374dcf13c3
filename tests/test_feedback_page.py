"""Feedback on the web page, in a real browser: judge a result, one's own words, the report."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from accounts_server import Accounts, running_accounts
from conftest import cloned_database
from feedback_server import LABELS, FeedbackService, know_labels
from queue_server import MODEL, VERSION, StubPredictor, answers, photo, rows
from test_page import LISTEN_FOR_VIOLATIONS, PHONE, Visit, browser  # noqa: F401 - the fixture
from test_report import Story


@pytest.fixture(scope="module")
def accounts(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    with StubPredictor(answers("cat")) as stub, cloned_database(postgres) as url:
        know_labels(url, MODEL, VERSION)
        for version in ("1", "2"):
            know_labels(url, version=version)
        with running_accounts(tmp_path_factory.mktemp("page"), url, stub.url) as running:
            Story(FeedbackService(running.feedback_url, url))
            yield running


@pytest.fixture
def visit(browser: Any, accounts: Accounts) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, accounts.url)
    yield visit
    visit.context.close()
    assert visit.complaints == []


def classify(visit: Visit, name: str = "photo.jpg") -> None:
    visit.choose({"name": name, "mimeType": "image/jpeg", "buffer": photo()})
    visit.wait_for_rows(1)


def newest(accounts: Accounts) -> tuple[Any, ...]:
    query = "SELECT is_right, correct_class, comment, image_file_name FROM feedback ORDER BY updated_at DESC LIMIT 1"
    return rows(accounts.proxy.database_url, query)[0]


def words(visit: Visit) -> str:
    text: str = visit.page.locator(".judge-words").inner_text()
    return text


def test_a_result_is_judged_wrong_with_the_right_class_and_a_comment(visit: Visit, accounts: Accounts) -> None:
    classify(visit, "<b>rex</b>.jpg")
    visit.page.locator(".judge-wrong").click()
    visit.page.wait_for_function("() => document.querySelectorAll('#judge-labels option').length === 3")
    offered = visit.page.locator("#judge-labels option").evaluate_all("options => options.map((one) => one.value)")
    assert offered == [label for label in LABELS if label != "cat"]
    visit.page.locator(".judge input").fill("Dog")
    visit.page.locator(".judge textarea").fill("<img src=x onerror=alert(1)>")
    visit.page.locator(".judge-send").click()
    visit.page.get_by_text("You said: wrong, it is dog.").first.wait_for()
    assert newest(accounts) == (False, "dog", "<img src=x onerror=alert(1)>", "<b>rex</b>.jpg")
    assert visit.announced() == "Thank you. You said: wrong, it is dog."
    visit.page.reload()
    visit.page.get_by_text("You said: wrong, it is dog.").wait_for()


def test_right_takes_two_keys_and_a_change_of_mind_replaces_it(visit: Visit, accounts: Accounts) -> None:
    classify(visit)
    visit.page.locator(".judge-right").focus()
    visit.page.keyboard.press("Enter")
    visit.page.keyboard.press("Enter")
    visit.page.get_by_text("You said: right.").first.wait_for()
    assert newest(accounts)[:2] == (True, "cat")
    visit.page.locator(".judge-change").click()
    visit.page.locator(".judge-wrong").click()
    visit.page.locator(".judge-send").click()
    visit.page.get_by_text("You said: wrong.").first.wait_for()
    assert newest(accounts)[:2] == (False, None)


def test_a_class_that_the_model_does_not_have_is_not_sent(visit: Visit) -> None:
    classify(visit)
    visit.page.locator(".judge-wrong").click()
    visit.page.wait_for_function("() => document.querySelectorAll('#judge-labels option').length === 3")
    visit.page.locator(".judge input").fill("unicorn")
    visit.page.locator(".judge-send").click()
    message = visit.page.locator(".judge input").evaluate("input => input.validationMessage")
    assert message.startswith("The model has no other class")
    assert visit.page.locator(".judge-send").is_visible()
    assert visit.refusals == []


def test_my_feedback_is_listed_and_taken_back(visit: Visit, accounts: Accounts) -> None:
    classify(visit, "mine.jpg")
    visit.page.locator(".judge-right").click()
    visit.page.locator(".judge textarea").fill("<script>alert(1)</script>")
    visit.page.locator(".judge-send").click()
    visit.page.get_by_text("You said: right.").first.wait_for()
    visit.page.goto(f"{accounts.url}/my-feedback")
    visit.page.locator(".entry").wait_for()
    assert visit.page.locator(".entry .comment").inner_text().strip('"“”') == "<script>alert(1)</script>"
    assert "The model said cat" in visit.page.locator(".entry .about").inner_text()
    visit.page.wait_for_function("() => document.querySelector('.entry img').naturalWidth > 0")
    visit.page.locator(".take-back").click()
    visit.page.get_by_text("Taken back.").wait_for()
    assert visit.page.locator(".entry").count() == 0
    assert visit.refusals == []


def test_the_report_shows_figures_course_confusion_and_mistakes(visit: Visit, accounts: Accounts) -> None:
    visit.page.goto(f"{accounts.url}/report")
    row = visit.page.locator(".versions tbody tr", has_text="pets 1")
    row.wait_for()
    cells = row.locator("td").all_inner_texts()
    assert "50.0% (15.0% to 85.0%)" in cells[0]
    assert cells[1:] == ["5 (83.3%)", "6", "1"]
    assert "users judged" in visit.page.locator("#caution").inner_text()
    assert "judged by several people" in visit.page.locator("#agreement").inner_text()
    assert visit.page.locator(".chart polyline").count() >= 2
    assert "Share of right answers" in (visit.page.locator(".chart").get_attribute("aria-label") or "")
    visit.page.locator("summary").click()
    assert "2026-03-02" in visit.page.locator("#time-table").inner_text()
    visit.page.locator("#confusion-version").select_option("pets 1")
    assert visit.page.locator(".heat tbody tr", has_text="dog").locator("td.wrong").first.inner_text() == "1"
    assert visit.page.locator("#mistakes .comment", has_text="<b>Rex!</b>").count() == 1
    assert visit.page.locator("#mistakes b").count() == 0
    visit.page.locator("[name=version]").select_option("2")
    visit.page.wait_for_function("() => document.querySelectorAll('.versions tbody tr').length === 1")
    assert visit.refusals == []


@pytest.mark.parametrize("path", ["/", "/report", "/my-feedback"])
def test_no_page_is_wider_than_a_phone(browser: Any, accounts: Accounts, path: str) -> None:  # noqa: F811
    page = browser.new_page(viewport=PHONE)
    complaints: list[str] = []
    page.add_init_script(LISTEN_FOR_VIOLATIONS)
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(accounts.url + path)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert complaints == []
    page.close()


def test_without_the_feedback_service_predictions_go_on_and_the_page_says_so(visit: Visit, accounts: Accounts) -> None:
    classify(visit)
    accounts.feedback.send_signal(signal.SIGKILL)
    accounts.feedback.wait()
    visit.page.locator(".judge-right").click()
    visit.page.locator(".judge-send").click()
    visit.page.locator(".judge.failed").wait_for()
    assert words(visit).startswith("Feedback is unavailable:")
    visit.choose({"name": "next.jpg", "mimeType": "image/jpeg", "buffer": photo()})
    visit.wait_for_rows(2)
    visit.page.reload()
    visit.page.locator(".judge.failed").wait_for()
    assert words(visit).startswith("Feedback is unavailable:")
    visit.page.goto(f"{accounts.url}/report")
    visit.page.get_by_text("The report is unavailable:").wait_for()
