"""Accounts on the web page, in a real browser: register, log in, log out, API keys, and a login when one is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from accounts_server import PASSWORD, Accounts, running_accounts
from conftest import cloned_database
from queue_server import ASYNC, MODEL, StubPredictor, answers, photo
from test_page import PHONE, Visit, browser  # noqa: F401 - the fixture

SCREENS = {"phone": PHONE, "desktop": {"width": 1280, "height": 800}}


@pytest.fixture(scope="module")
def accounts(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    folder = tmp_path_factory.mktemp("accounts")
    with (
        StubPredictor(answers()) as stub,
        cloned_database(postgres) as url,
        running_accounts(folder, url, stub.url, mode="accounts") as running,
    ):
        yield running


@pytest.fixture
def visit(browser: Any, accounts: Accounts) -> Iterator[Visit]:  # noqa: F811
    visit = Visit(browser, accounts.url)
    yield visit
    visit.context.close()
    assert visit.complaints == []


def a_photo() -> dict[str, object]:
    return {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo()}


def fill(visit: Visit, email: str, password: str = PASSWORD, name: str | None = None) -> None:
    form = visit.page.locator(".entry-form")
    if name:
        form.locator("[name=name]").fill(name)
    form.locator("[name=email]").fill(email)
    form.locator("[name=password]").fill(password)
    form.locator(".go").click()


def log_in(visit: Visit, email: str, password: str = PASSWORD) -> None:
    visit.page.locator("#account-button").click()
    fill(visit, email, password)


def test_picture_waits_for_a_registration_and_then_goes_on(visit: Visit) -> None:
    visit.choose(a_photo())
    visit.page.get_by_text("You need an account to go on.").wait_for()
    visit.page.locator(".entry-form .other").click()
    fill(visit, "ada@example.com", name="<b>Ada</b>")
    visit.wait_for_rows(1)
    assert visit.page.locator("#account-button").inner_text() == "<b>Ada</b>"
    visit.page.reload()
    visit.wait_for_rows(1)
    visit.page.wait_for_function("() => document.querySelector('.row img').naturalWidth > 0")
    visit.refusals.remove(401)
    assert visit.refusals == []


def test_wrong_password_is_said_and_the_right_one_enters(visit: Visit, accounts: Accounts) -> None:
    person = accounts.register("Grace")
    log_in(visit, person.email, "not the password")
    visit.page.get_by_text("E-mail or password is wrong.").wait_for()
    fill(visit, person.email)
    visit.page.locator("dialog").wait_for(state="hidden")
    assert visit.page.locator("#account-button").inner_text() == "Grace"


def test_rules_are_said_in_a_sentence(visit: Visit) -> None:
    visit.page.locator("#account-button").click()
    visit.page.locator(".entry-form .other").click()
    fill(visit, "linus@example.com", "short", name="Linus")
    visit.page.get_by_text("password has 8 to 128 characters, not 5.").wait_for()


def test_session_that_has_ended_asks_for_a_login_and_goes_on(visit: Visit, accounts: Accounts) -> None:
    person = accounts.register("Barbara")
    log_in(visit, person.email)
    visit.page.locator("dialog").wait_for(state="hidden")
    visit.page.evaluate("""() => {
      const key = "model-server.session";
      localStorage.setItem(key, JSON.stringify({ ...JSON.parse(localStorage.getItem(key)), token: "expired" }));
    }""")
    visit.choose(a_photo())
    visit.page.get_by_text("Your session has ended.").wait_for()
    fill(visit, person.email)
    visit.wait_for_rows(1)


def test_login_that_is_declined_leaves_a_picture_to_try_again(visit: Visit, accounts: Accounts) -> None:
    visit.choose(a_photo())
    visit.page.get_by_text("You need an account to go on.").wait_for()
    visit.page.keyboard.press("Escape")
    visit.wait_for_rows(1, "refused")
    assert visit.detail(".headline") == "Please log in first"
    visit.page.locator("#detail .again").click()
    fill(visit, accounts.register().email)
    visit.wait_for_rows(1)


def test_api_key_is_made_works_and_is_revoked(visit: Visit, accounts: Accounts) -> None:
    log_in(visit, accounts.register("Alan").email)
    visit.page.locator("dialog").wait_for(state="hidden")
    visit.page.locator("#account-button").click()
    visit.page.locator(".key-form input").fill("Nightly <i>import</i>")
    visit.page.locator(".key-form button").click()
    visit.page.locator(".new-key output").wait_for()
    key = visit.page.locator(".new-key output").inner_text()
    url, headers = f"{accounts.url}/v1/models/{MODEL}:predict", {**ASYNC, "Authorization": f"Bearer {key}"}
    assert httpx.post(url, content=photo(), headers=headers).status_code == 202
    visit.page.get_by_role("button", name="Revoke Nightly <i>import</i>").click()
    visit.page.wait_for_function("() => document.querySelectorAll('.keys li').length === 0")
    assert httpx.post(url, content=photo(), headers=headers).status_code == 401


def test_logging_out_forgets_who_it_was_and_what_they_asked(visit: Visit, accounts: Accounts) -> None:
    log_in(visit, accounts.register("Edsger").email)
    visit.page.locator("dialog").wait_for(state="hidden")
    visit.choose(a_photo())
    visit.wait_for_rows(1)
    visit.page.locator("#account-button").click()
    visit.page.locator(".log-out").click()
    visit.page.wait_for_function("() => document.querySelector('#account-button').textContent === 'Log in'")
    assert visit.page.locator(".row").count() == 0
    assert visit.page.evaluate("JSON.stringify(localStorage)").count("token") == 0


def test_deleting_the_account_asks_first_and_ends_it(visit: Visit, accounts: Accounts) -> None:
    person = accounts.register("Tony")
    log_in(visit, person.email)
    visit.page.locator("dialog").wait_for(state="hidden")
    visit.page.once("dialog", lambda question: question.dismiss())
    visit.page.locator("#account-button").click()
    visit.page.locator(".mine .delete").click()
    assert accounts.login(person.email).status_code == 200
    visit.page.once("dialog", lambda question: question.accept())
    visit.page.locator(".mine .delete").click()
    visit.page.wait_for_function("() => document.querySelector('#account-button').textContent === 'Log in'")
    assert accounts.login(person.email).status_code == 401


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_account_fits_the_screen(
    browser: Any,  # noqa: F811
    accounts: Accounts,
    screen: str,
    scheme: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    visit = Visit(browser, accounts.url, viewport=SCREENS[screen], color_scheme=scheme)
    folder = tmp_path_factory.getbasetemp()
    visit.page.locator("#account-button").click()
    visit.page.screenshot(path=folder / f"account-login-{screen}-{scheme}.png")
    person = accounts.register("A name of remarkable length that does not fit anywhere at all on a phone")
    fill(visit, person.email)
    visit.page.locator("dialog").wait_for(state="hidden")
    visit.page.screenshot(path=folder / f"account-page-{screen}-{scheme}.png")
    visit.page.locator("#account-button").click()
    visit.page.locator(".key-form input").fill("Nightly import")
    visit.page.locator(".key-form button").click()
    visit.page.locator(".new-key output").wait_for()
    visit.page.screenshot(path=folder / f"account-mine-{screen}-{scheme}.png")
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visit.page.evaluate("(d => d.scrollWidth <= d.clientWidth)(document.querySelector('dialog'))")
    visit.context.close()
    assert visit.complaints == []


def test_page_goes_on_without_the_feedback_service(
    browser: Any,  # noqa: F811
    postgres: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("away")
    with (
        StubPredictor(answers()) as stub,
        cloned_database(postgres) as url,
        running_accounts(folder, url, stub.url) as accounts,
    ):
        accounts.feedback.kill()
        accounts.feedback.wait()
        visit = Visit(browser, accounts.url)
        visit.page.locator("#account-button[title='Accounts and feedback are not available now']:disabled").wait_for()
        visit.choose(a_photo())
        visit.wait_for_rows(1)
        visit.context.close()
        assert visit.complaints == []
