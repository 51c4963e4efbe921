"""The page of fishdip view in a real browser, opened from a file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peft_fishdip.tasks import Document, Problem, Relation, Span
from peft_fishdip.view import build_page

from .test_view import HOSTILE

playwright = pytest.importorskip("playwright.sync_api")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

TEXT = "Bank of Oslo opened in Turku."
BANK, OSLO, EVENT, TURKU = Span(0, 12, "ORG"), Span(8, 12, "LOC"), Span(5, 19, "EVENT"), Span(23, 28, "LOC")
IN = Relation(BANK, TURKU, "located_in")
DOCUMENT = Document(
    TEXT,
    (BANK, OSLO, EVENT, TURKU),
    (IN,),
    "d1",
    None,
    (Problem("output_cut", "stopped"),),
    {BANK: 0.25, OSLO: 0.5, IN: 0.75},
    "[ Bank",
    {"file": "<b>a.txt", "confidence": 0.5},
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens the page of documents; whatever the browser complains of, or asks for, fails the test."""
    page = browser.new_page()
    heard: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: heard.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))

    def show(*documents: Document) -> Any:
        file = tmp_path / "page.html"
        file.write_bytes(build_page(documents, "found.jsonl").encode())
        page.goto(file.as_uri())
        return page

    yield show
    assert heard == []
    assert len(asked) == 1
    page.close()


def texts(page: Any, selector: str) -> list[str]:
    return page.locator(selector).all_text_contents()


def test_spans_nest_and_cross(show):
    page = show(DOCUMENT)
    assert texts(page, ".mark:not(fieldset *)") == [
        "Bank of OsloLOC 0.500EVENT …ORG 0.250",
        "of OsloLOC 0.500EVENT …",
        "OsloLOC 0.500",
        " opened… EVENT",
        "TurkuLOC",
    ]
    page.evaluate("document.querySelectorAll('.label').forEach(label => label.remove())")
    assert texts(page, ".text") == [TEXT]


def test_scores_are_shown_on_hover_and_on_demand(show):
    page = show(DOCUMENT)
    marks = page.locator(".text .mark")
    assert marks.first.get_attribute("title") == "ORG, score 0.250: Bank of Oslo"
    assert marks.last.get_attribute("title") == "LOC, no score: Turku"
    score = page.locator(".text .score").first
    assert not score.is_visible()
    page.check("#scores")
    assert score.is_visible()


def test_filters(show):
    page = show(DOCUMENT, Document("Nothing here.", (), (), "d2"))
    assert page.inner_text("#found") == "2 of 2 documents, 4 spans"
    rows = page.locator("#labels > label")
    assert [text.split() for text in rows.all_inner_texts()] == [
        ["EVENT", "1", "of", "1"],
        ["LOC", "2", "of", "2"],
        ["ORG", "1", "of", "1"],
    ]
    page.fill("#least", "0.5")  # those without a score stay
    # innerText is empty in articles that the browser has not drawn yet (content-visibility)
    labels = page.locator(".text .label").all_text_contents()
    assert [text.split()[0] for text in labels] == ["LOC", "EVENT", "LOC"]
    assert page.locator(".relations").count() == 0  # its head is hidden
    page.fill("#least", "0")
    rows.nth(1).locator("input").uncheck()
    assert page.inner_text("#found") == "2 of 2 documents, 2 spans"
    assert rows.nth(1).inner_text().split() == ["LOC", "0", "of", "2"]
    page.click("#labels button:text('none')")
    assert page.locator(".text .mark").count() == 0
    page.select_option("#which", "some")
    assert page.inner_text("#found") == "0 of 2 documents, 0 spans"
    page.click("#labels button:text('all')")
    assert texts(page, "h2 bdi:first-child") == ["d1"]
    page.select_option("#which", "none")
    assert texts(page, "h2 bdi:first-child") == ["d2"]
    page.select_option("#which", "problems")
    assert texts(page, "h2 bdi:first-child") == ["d1"]


def test_search(show):
    page = show(DOCUMENT, Document("İstanbul (x.) oslo Oslo", (Span(19, 23, "LOC"),), (), "d2"))
    page.fill("#query", "OSLO")
    assert texts(page, "mark") == ["Oslo", "oslo", "Oslo"]
    page.fill("#query", "k of os")
    assert texts(page, "mark") == ["k ", "of ", "Os"]  # parts of three spans
    page.fill("#query", "(x.)")
    assert (texts(page, "mark"), texts(page, "h2 bdi")) == (["(x.)"], ["d2"])
    page.fill("#query", "d1")
    assert texts(page, "h2 bdi:first-child") == ["d1"]
    page.fill("#query", "[")
    assert page.inner_text("#found") == "0 of 2 documents, 0 spans"


def test_relations_problems_and_generated_text(show):
    page = show(DOCUMENT)
    assert texts(page, "h2 bdi") == ["d1", "file: <b>a.txt", "confidence: 0.5"]
    button = page.locator(".relations button")
    assert button.text_content() == "Bank of OsloORG — located_in → TurkuLOC 0.750"
    assert button.get_attribute("title") == "score 0.750"
    button.hover()
    assert page.locator(".on").count() == 2
    page.hover("h1")
    assert page.locator(".on").count() == 0
    button.click()
    page.hover("h1")
    assert page.locator(".on").count() == 2
    assert page.locator(".problems li").all_text_contents() == ["⚠ output_cut: stopped"]
    assert page.locator("#summary li").all_inner_texts() == ["output_cut\n1"]
    page.click("summary")
    assert page.locator("details pre").inner_text() == "[ Bank"
    page.uncheck("#kinds input")
    assert page.locator(".relations").count() == 0


def test_the_keyboard_is_enough(show):
    page = show(DOCUMENT)
    assert page.evaluate("document.activeElement.tagName") == "BODY"
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(document.activeElement.id || document.activeElement.textContent).slice(0, 12)"))
        if reached[-1] == "Bank of Oslo":
            break
    assert reached[:5] == ["query", "which", "least", "order", "scores"]
    assert reached[-1] == "Bank of Oslo"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    assert page.locator(".on").count() == 2


def test_thousands_of_documents_come_in_pages(show):
    span = Span(0, 4, "ORG")
    page = show(*(Document(TEXT, (span,), (), f"n{i}", scores={span: (i % 997) / 1000}) for i in range(5000)))
    assert page.locator("article").count() == 100
    nav = page.locator("nav").first
    assert nav.inner_text().split() == ["Previous", "Page", "of", "50", "Next"]
    assert nav.locator("button").first.is_disabled()
    nav.locator("button").last.click()
    assert texts(page, "h2 bdi")[0] == "n100"
    nav.locator("input").fill("999")
    nav.locator("input").press("Enter")
    assert texts(page, "h2 bdi")[0] == "n4900"
    assert nav.locator("button").last.is_disabled()
    page.select_option("#order", "score")
    assert texts(page, "h2 bdi")[:7] == ["n0", "n997", "n1994", "n2991", "n3988", "n4985", "n1"]


def test_spans_that_overlap_in_their_hundreds_are_listed(show):
    spans = tuple(Span(i, 1000 - i, "X") for i in range(400))
    page = show(Document("a" * 1000, spans, (Relation(spans[0], spans[399], "r"),)))
    assert page.locator(".text .mark").count() == 20
    assert page.locator(".listed li").count() == 380
    page.locator(".relations button").hover()
    assert page.locator(".listed .on").count() == 1


def test_hostile_texts(show):
    documents = []
    for number, text in enumerate(HOSTILE):
        end = len(text.rstrip())
        spans = (Span(0, end, text.strip()),) if text.strip() == text else ()
        relations = tuple(Relation(span, span, text) for span in spans)
        documents.append(Document(text, spans, relations, f"{number}{text}", None, (Problem(text, text),), {}, text))
    page = show(*documents)
    page.evaluate("document.querySelectorAll('.label').forEach(label => label.remove())")
    assert texts(page, ".text") == HOSTILE
    assert texts(page, "details pre") == HOSTILE
    assert texts(page, "h2 bdi") == [f"{number}{text}" for number, text in enumerate(HOSTILE)]
    assert page.locator("img, main script").count() == 0
    assert any("U+202E" in text and "U+2066" in text for text in texts(page, ".problems li"))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # long words are broken


@pytest.mark.parametrize("width", [320, 1300])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read_on_any_width(show, scheme, width):
    page = show(DOCUMENT)
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    contrast = """selector => {
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const over = colours => {
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(value => linear(value / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      return Math.min(...[...document.querySelectorAll(selector)].map(element => {
        const behind = [];
        for (let e = element; e; e = e.parentElement) behind.unshift(getComputedStyle(e).backgroundColor);
        const [low, high] = [over(behind), over([...behind, getComputedStyle(element).color])].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
      }));
    }"""
    for selector in (".mark", ".label", ".problems li", "h2", "output", ".relations button"):
        assert page.evaluate(contrast, selector) >= 4.5, selector  # as WCAG 2 asks of small text
