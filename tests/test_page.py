"""The web page in a real browser, on the whole real system."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import REPOSITORY, database_folder
from pictures import draw, encode
from system import System, running_system

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAGE = REPOSITORY / "model_server" / "queue_proxy" / "page"
PHONE = {"width": 390, "height": 844}
LISTEN_FOR_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => console.error("CSP", event.violatedDirective, event.blockedURI));
"""
SEND_FILES = """([way, data, name, type]) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const target = document.body;
  if (way === "paste") {
    return target.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
  }
  for (const kind of ["dragenter", "dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with database_folder() as folder, running_system(folder) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install 'model-server[test]'")
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium, which scripts/test does where it may")
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox refuses to run as root, as in a container; the pages are ours.
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Visit:
    """A browser on the page, and what its console complained of."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.refusals: list[int] = []
        self.page.add_init_script(LISTEN_FOR_VIOLATIONS)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", lambda reply: self.refusals.append(reply.status) if reply.status >= 400 else None)
        self.page.goto(url)
        self.page.locator("#model-label[data-state=ready]").wait_for()

    def _hear(self, message: Any) -> None:
        # Chromium itself writes this line for every reply of 400 and above; `refusals` has their status.
        if message.type in {"error", "warning"} and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    def choose(self, *files: object) -> None:
        self.page.set_input_files("#files", list(files))

    def row(self, state: str) -> Any:
        return self.page.locator(f".row[data-state={state}]")

    def wait_for_rows(self, count: int, state: str = "succeeded") -> None:
        self.page.wait_for_function(
            "([state, count]) => document.querySelectorAll(`.row[data-state=${state}]`).length === count",
            arg=[state, count],
        )

    def detail(self, part: str) -> str:
        text: str = self.page.locator(f"#detail {part}").first.inner_text()
        return text

    def announced(self) -> str:
        text: str = self.page.locator("#announcement").text_content()
        return text


@pytest.fixture
def visit(browser: Any, system: System) -> Iterator[Visit]:
    """Return a visit that must end without a word in the console."""
    visiting = Visit(browser, system.url)
    yield visiting
    visiting.context.close()
    assert visiting.complaints == []


def picture(name: str = "photo.png", seed: int = 0) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": encode(draw(200 + seed, 160), "PNG")}


def best_class(system: System, data: bytes) -> dict[str, Any]:
    reply = httpx.post(system.predict_url, content=data, headers={"Content-Type": "image/png"})
    best: dict[str, Any] = reply.json()["predictions"][0]
    return best


def test_picture_is_classified_and_survives_a_reload(visit: Visit, system: System) -> None:
    expected = best_class(system, picture()["buffer"])
    visit.choose(picture())
    visit.wait_for_rows(1)
    for _ in range(2):
        assert visit.detail(".bar-label") == expected["label"]
        assert visit.detail(".bar-score") == f"{expected['score']:.1%}"
        assert visit.page.locator(".bar").count() == min(5, len(expected["top"]))
        assert visit.page.locator(".row-title").all_inner_texts() == [expected["label"]]
        facts = visit.page.locator(".facts dt").all_inner_texts()
        assert facts == ["In the queue", "In the model", "Model"]
        assert visit.detail(".facts div:last-child dd").startswith(f"{system.model} ")
        visit.page.wait_for_function("() => document.querySelector('.preview img').naturalWidth > 0")
        visit.page.wait_for_function("() => document.querySelector('.thumb img').naturalWidth > 0")
        visit.page.reload()
        visit.wait_for_rows(1)
    assert visit.refusals == []


def test_ten_pictures_at_once_with_progress(visit: Visit) -> None:
    visit.choose(*(picture(f"{number}.png", number) for number in range(10)))
    assert re.fullmatch(r"\d+ of 10 pictures done", visit.page.locator("#batch-text").inner_text())
    visit.wait_for_rows(10)
    assert visit.page.locator("#batch-text").inner_text() == "10 of 10 pictures done"
    assert visit.page.locator("#batch-bar").evaluate("(bar) => bar.value / bar.max") == 1
    assert visit.announced() == "10 of 10 pictures done"
    names = [note.split(" · ")[1] for note in visit.page.locator(".row-note").all_inner_texts()]
    assert names == [f"{number}.png" for number in range(10)]
    visit.page.reload()
    visit.wait_for_rows(10)
    assert visit.refusals == []


def test_broken_file_among_good_ones_is_explained(visit: Visit) -> None:
    broken = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8\xff but no picture"}
    visit.choose(broken, picture())
    visit.wait_for_rows(1)
    visit.page.locator(".row:is([data-state=refused], [data-state=failed])").wait_for()
    assert visit.detail(".headline") == "That is not a picture we can read"
    assert re.search(r"image|picture|JPEG", visit.detail(".words"))
    assert visit.page.locator("#batch-text").inner_text() == "2 of 2 pictures done, 1 without a class"


@pytest.mark.parametrize(
    ("name", "content", "headline"),
    [
        ("notes.txt", b"some words", "That is not a picture"),
        ("nothing.png", b"", "The file is empty"),
        ("huge.jpg", b"\xff\xd8\xff" + b"x" * (17 << 20), "The picture is too large"),
    ],
)
def test_what_cannot_be_sent_is_said_in_words(
    visit: Visit, tmp_path: Path, name: str, content: bytes, headline: str
) -> None:
    (tmp_path / name).write_bytes(content)
    visit.choose(tmp_path / name)
    visit.row("refused").wait_for()
    assert visit.detail(".headline") == headline
    assert visit.detail(".words").endswith(".")
    assert headline in visit.announced()
    assert not visit.page.locator(".again").is_visible()


def test_keyboard_alone_chooses_walks_and_removes(visit: Visit) -> None:
    keys = visit.page.keyboard
    with visit.page.expect_file_chooser() as chooser:
        visit.page.locator("#account-button").wait_for()
        for reached in ("account-button", "choose"):
            keys.press("Tab")
            assert visit.page.evaluate("document.activeElement.id") == reached
        keys.press("Enter")
    chooser.value.set_files([picture("a.png", 1), picture("b.png", 2)])
    visit.wait_for_rows(2)
    for _ in range(12):
        if visit.page.evaluate("document.activeElement.className") == "row-open":
            break
        keys.press("Tab")
    keys.press("ArrowDown")
    keys.press("Enter")
    assert visit.page.locator(".row").nth(1).locator("[aria-current=true]").count() == 1
    assert visit.detail(".file-name") == "b.png"
    assert visit.announced().startswith("b.png: ")
    visit.page.locator(".remove").focus()
    keys.press("Enter")
    visit.wait_for_rows(1)
    assert visit.page.evaluate("document.activeElement.id") == "choose"
    outline = visit.page.locator("#choose").evaluate("(button) => getComputedStyle(button).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(visit: Visit, way: str) -> None:
    data = base64.b64encode(picture()["buffer"]).decode()
    visit.page.evaluate(SEND_FILES, [way, data, f"{way}.png", "image/png"])
    visit.wait_for_rows(1)
    assert visit.detail(".file-name") == f"{way}.png"
    assert not visit.page.locator("#overlay").is_visible()


def test_busy_server_is_asked_again_with_the_same_key(visit: Visit) -> None:
    keys: list[str] = []

    def answer(route: Any) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) > 2:
            route.continue_()
        else:
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": "The queue is full."})

    visit.page.route("**/*:predict", answer)
    visit.choose(picture())
    visit.row("held").wait_for()
    assert visit.detail(".headline") == "The server is busy; trying again"
    assert visit.detail(".words") == "The queue is full."
    visit.wait_for_rows(1)
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_picture_chosen_offline_goes_when_the_network_is_back(visit: Visit) -> None:
    visit.context.set_offline(True)
    visit.choose(picture())
    visit.row("held").wait_for()
    assert visit.detail(".headline") == "You are offline; trying again"
    visit.context.set_offline(False)
    visit.wait_for_rows(1)


def test_waiting_picture_can_be_cancelled(visit: Visit) -> None:
    visit.page.route("**/*:predict", lambda route: route.fulfill(status=503, json={"error": "The queue is full."}))
    visit.choose(picture())
    visit.row("held").wait_for()
    visit.page.locator(".cancel").click()
    visit.row("cancelled").wait_for()
    visit.page.unroute("**/*:predict")
    visit.page.locator(".again").click()
    visit.wait_for_rows(1)


def test_model_that_sleeps_is_known_from_last_time(visit: Visit) -> None:
    asleep = {"status": 503, "headers": {"Retry-After": "1"}, "json": {"error": "The predictor does not answer."}}
    visit.page.route("**/v1/models", lambda route: route.fulfill(**asleep))
    visit.page.reload()
    visit.page.locator("#model-label[data-state=asleep]").wait_for()
    visit.choose(picture())
    visit.wait_for_rows(1)
    visit.page.unroute("**/v1/models")
    visit.page.locator("#model-label[data-state=ready]").wait_for()


def test_names_are_text_whatever_they_contain(visit: Visit) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    visit.choose(picture(name))
    visit.wait_for_rows(1)
    assert visit.detail(".file-name") == name
    assert visit.page.locator("img[src=x]").count() == 0


def test_prediction_that_is_gone_leaves_the_list(visit: Visit) -> None:
    visit.choose(picture())
    visit.wait_for_rows(1)
    visit.page.evaluate("""() => {
      const key = "model-server.predictions";
      const gone = { id: "018f0000-0000-7000-8000-000000000000", name: "gone.png" };
      localStorage.setItem(key, JSON.stringify([gone, ...JSON.parse(localStorage.getItem(key))]));
    }""")
    visit.page.reload()
    visit.wait_for_rows(1)
    visit.page.wait_for_function("() => document.querySelectorAll('.row').length === 1")
    assert "gone.png" not in visit.page.evaluate("localStorage.getItem('model-server.predictions')")
    assert visit.refusals == [410]


def test_list_is_cleared(visit: Visit) -> None:
    visit.choose(picture("a.png", 1), picture("b.png", 2))
    visit.wait_for_rows(2)
    visit.page.get_by_role("button", name="Clear list").click()
    assert visit.page.locator(".row").count() == 0
    assert not visit.page.locator("#detail").is_visible()
    visit.page.reload()
    assert visit.page.locator(".row").count() == 0


def test_everything_has_a_name_for_a_screen_reader(visit: Visit) -> None:
    visit.choose(picture("a.png", 1), picture("b.png", 2))
    visit.wait_for_rows(2)
    tree = visit.page.locator("body").aria_snapshot()
    assert '- heading "What is in your picture?" [level=1]' in tree
    assert 'progressbar "2 of 2 pictures done"' in tree
    assert 'button "Choose pictures' in tree
    assert 'list "Best classes"' in tree
    assert not re.search(r"- (button|combobox|img|progressbar|region)(:|$)", tree, re.MULTILINE), tree


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_page_fits_and_is_readable(browser: Any, system: System, width: int, scheme: str) -> None:
    visit = Visit(browser, system.url, viewport={"width": width, "height": 800}, color_scheme=scheme)
    visit.choose(picture("a-very-long-name-" * 8 + ".png"))
    visit.wait_for_rows(1)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in (".file-name", ".bar-label", ".bar-score >> nth=1", ".row-note", "#forget", ".facts dt", ".remove"):
        assert contrast(visit.page.locator(selector).first) >= 4.5, selector
    visit.context.close()
    assert visit.complaints == []


def contrast(element: Any) -> float:
    """Return the contrast of an element's text with what lies behind it, 1..21 (WCAG 2.2)."""
    colours = element.evaluate("""(element) => {
      const opaque = (node) => {
        const colour = getComputedStyle(node).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" && node.parentElement ? opaque(node.parentElement) : colour;
      };
      return [getComputedStyle(element).color, opaque(element)];
    }""")
    light, dark = sorted((luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (int(number) / 255 for number in re.findall(r"\d+", colour)[:3])
    ]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_page_is_served_under_a_strict_policy_and_cached_by_content(system: System) -> None:
    for path in ("/", *(f"/page/{file.name}" for file in PAGE.iterdir() if file.suffix in {".js", ".css", ".svg"})):
        reply = httpx.get(system.url + path)
        assert reply.status_code == 200
        policy = reply.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        known = httpx.get(system.url + path, headers={"If-None-Match": reply.headers["ETag"]})
        assert (known.status_code, known.content) == (304, b"")
    for path in ("/page/__init__.py", "/page/absent.js", "/page/..%2f__init__.py"):
        assert httpx.get(system.url + path).status_code == 404


@pytest.mark.parametrize("file", sorted(PAGE.glob("*.js")), ids=lambda file: file.name)
def test_scripts_set_text_as_text(file: Path) -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", file.read_text(encoding="utf-8")
    )
