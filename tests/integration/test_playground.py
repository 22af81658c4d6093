"""The page at `/` in a real browser, before the real service."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.integration.conftest import ROOT

CHROMIUM = "/usr/bin/chromium"
# As root, without a GPU, and without looking for hosts on the internet.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PICTURES = ROOT / "build" / "screenshots"
QUESTION = "In which town do most people on Corsica live?"
ANSWER_WITHIN_MS = 60_000
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def page(browser: Browser, service: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(service)
    yield page
    page.close()
    assert errors == []


def ask(page: Page, question: str = QUESTION) -> None:
    """By keyboard: the question has the focus when the page opens."""
    page.keyboard.type(question)
    page.keyboard.press("Enter")


def ask_anew(page: Page) -> None:
    """Whatever was asked before, of this service or through another test, nothing comes from the cache."""
    page.get_by_text("Options").click()
    page.locator("#cache").uncheck()
    page.locator("#question").focus()
    ask(page)


def places(page: Page) -> list[str]:
    return page.locator("#passages .title").all_text_contents()


def test_the_order_changes_and_the_answer_cites(page: Page) -> None:
    ask_anew(page)
    expect(page.locator(".cite").first).to_be_visible(timeout=ANSWER_WITHIN_MS)
    expect(page.locator("#answer")).to_contain_text("Ajaccio")
    expect(page.locator("#order")).to_have_text("20 found, 5 kept")
    assert len(places(page)) == 20
    assert page.locator(".move.is-up, .move.is-down").count() > 0
    assert page.locator(".scores progress").count() == 5
    expect(page.locator("#timings")).to_contain_text("score")
    expect(page.locator("#curl")).to_contain_text(f'"question":"{QUESTION}"')
    page.screenshot(path=PICTURES / "answer.png", full_page=True)


def test_a_cached_answer_says_so_and_shows_what_was_kept(page: Page) -> None:
    for _ in range(2):
        page.locator("#question").fill("")
        page.locator("#question").focus()
        ask(page)
        expect(page.locator("#notes")).to_contain_text("tokens", timeout=ANSWER_WITHIN_MS)
    expect(page.locator("#notes")).to_contain_text("From the cache")
    expect(page.locator("#order")).to_have_text("5 kept")
    assert len(places(page)) == 5


def test_a_citation_leads_to_its_words(page: Page) -> None:
    ask(page)
    cite = page.locator(".cite").first
    cite.click(timeout=ANSWER_WITHIN_MS)
    expect(cite).to_have_attribute("aria-pressed", "true")
    words = cite.inner_text()
    expect(page.locator(".passage.is-cited mark").first).to_have_text(words, ignore_case=True)
    expect(page.locator(".passage.is-cited summary").first).to_be_focused()
    page.screenshot(path=PICTURES / "citation.png", full_page=True)


def test_an_error_names_the_field_and_the_limit(page: Page) -> None:
    page.get_by_text("Options").click()
    page.locator("#top_n").fill("100000")
    page.locator("#question").focus()
    ask(page)
    expect(page.get_by_role("alert")).to_contain_text("Field: top_n")
    expect(page.get_by_role("alert")).to_contain_text("Limit: ")
    page.screenshot(path=PICTURES / "error.png")


@pytest.mark.threat("T27")
def test_whatever_a_passage_holds_is_shown_as_text(page: Page) -> None:
    """The stream is made up here: no passage of the demo index is hostile."""
    title = page.title()
    page.route("**/answer", hostile_answer)
    ask(page, HOSTILE)
    expect(page.locator("#answer")).to_have_text(HOSTILE)
    expect(page.locator(".title").first).to_have_text(HOSTILE)
    page.locator(".passage summary").first.click()
    expect(page.locator(".passage .text").first).to_have_text(HOSTILE)
    assert page.locator("main img, main script").count() == 0
    assert page.title() == title


def hostile_answer(route: Route) -> None:
    scores = {"retrieval_score": 0.5, "retrieval_rank": 1, "relevance_score": 0.5, "label_mass": 1.0, "rank": 1}
    passage = {"id": HOSTILE, "title": HOSTILE, "text": HOSTILE, "in_context": True, "metadata": {}, **scores}
    usage = {"pairs_scored": 1, "pairs_cached": 0, "total_tokens": 1}
    events: list[dict[str, Any]] = [
        {"type": "search_results", "passages": [passage]},
        {"type": "rerank", "passages": [passage], "degraded": []},
        {"type": "final", "answer": HOSTILE, "citations": [], "passages": [passage], "abstained": False,
         "cached": False, "degraded": [HOSTILE], "usage": usage, "timings_ms": {HOSTILE: 1.0}},
    ]  # fmt: skip
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    route.fulfill(status=200, content_type="text/event-stream", body=body)


def test_a_key_stays_in_the_tab_and_out_of_the_command(page: Page) -> None:
    page.get_by_text("Options").click()
    page.locator("#key").fill("rrk_not-a-real-key")
    page.locator("#question").focus()
    ask(page)
    expect(page.locator("#curl")).to_contain_text("$RANKRAG_KEY")
    assert "rrk_" not in page.locator("#curl").inner_text()
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_either_scheme(browser: Browser, service: str, scheme: str) -> None:
    page = browser.new_page(
        viewport={"width": 360, "height": 740}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page.goto(service)
    ask(page)
    expect(page.locator(".cite").first).to_be_visible(timeout=ANSWER_WITHIN_MS)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 22, 27)") == (scheme == "dark")
    page.screenshot(path=PICTURES / f"phone-{scheme}.png", full_page=True)
    page.close()
