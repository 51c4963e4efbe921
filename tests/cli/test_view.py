"""fishdip view: one page, written whole or not at all, in which no text can be read as HTML."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from peft_fishdip.cli.view import view
from peft_fishdip.tasks import Document, NerTask, Problem, Relation, Span, to_document, write, write_json_lines
from peft_fishdip.view import build_page

MIA, OSLO = Span(2, 5, "PER"), Span(11, 15, "LOC")
DOCUMENT = Document(
    "😀 Mia left Oslo.",
    (MIA, OSLO),
    (Relation(MIA, OSLO, "left"),),
    "d1",
    None,
    (Problem("output_cut", "x"),),
    {MIA: 0.5},
)
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</SCRIPT ><img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]>\"'`&lt;&amp;",
    "{{script}} {{data}} \\u003c \\",
    "\u2028\u2029\u202e\u2066\ufeff\u0000\x1b\x7f\r\n\x85",
    "👩\u200d🚀" + "w" * 3000,
    "שלום עולם",
]

app = typer.Typer()
app.command()(view)


class Page(HTMLParser):
    """The elements of a page, and the text in each kind of them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.texts.setdefault(tag, []).append("")

    def handle_data(self, data):
        if self.tags:
            self.texts[self.tags[-1][0]][-1] += data

    @property
    def data(self):
        return json.loads(self.texts["script"][0])


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, [*arguments])
        assert result.exit_code == code, result.output
        return result

    return run


def test_the_page_goes_to_stdout_or_to_a_file(run):
    write_json_lines("found.jsonl", [DOCUMENT])
    result = run("found.jsonl")
    assert result.stdout.startswith("<!DOCTYPE html>")
    assert "done: found.jsonl (fishdip): 1 document, 2 spans, 1 relation" in result.stderr
    assert re.search("output_cut +│ +1 │ d1 +│ x", result.stderr)
    assert run("found.jsonl", "--output", "page.html").stdout == ""
    assert Path("page.html").read_bytes() == result.stdout_bytes
    assert "<title>Mine</title>" in run("found.jsonl", "--title", "Mine").stdout
    assert sorted(os.listdir()) == ["found.jsonl", "page.html"]


def test_other_formats_are_shown(run):
    write("in.jsonl", [DOCUMENT], format="doccano", unit="characters")
    page = Page(run("in.jsonl", "--unit", "characters").stdout)
    assert page.data["documents"][0]["spans"] == [[3, 6, 1, None], [12, 16, 0, None]]
    Path("in.conll").write_text("Mia\tB-PER\nleft\tO\n\n")
    assert Page(run("in.conll", "--from", "conll").stdout).data["documents"][0]["text"] == "Mia left"


def test_predictions_and_records_are_shown_as_they_are():
    result = NerTask({"PER": "person"}).decode("Mia left", "[ Mia | person ] left")
    for given in (result, result.prediction, to_document(result)):
        (shown,) = Page(build_page([given], "a")).data["documents"]
        assert (shown["text"], shown["spans"]) == ("Mia left", [[0, 3, 0, None]])
        with pytest.raises(TypeError, match=r"documents=.*: give a list of documents, records or predictions"):
            build_page(given, "a")
    assert Page(build_page((x for x in [result]), "a")).data["documents"][0]["generated"] == "[ Mia | person ] left"
    with pytest.raises(TypeError, match="Document, NerExample or JointExample expected, got int"):
        build_page([5], "a")


def test_data_of_the_script():
    data = Page(build_page([DOCUMENT], "a")).data
    assert data == {
        "labels": ["LOC", "PER"],
        "kinds": ["left"],
        "documents": [
            {
                "id": "d1",
                "text": DOCUMENT.text,
                "spans": [[3, 6, 1, 0.5], [12, 16, 0, None]],  # JavaScript counts UTF-16 units
                "relations": [[0, 1, 0, None]],
                "problems": [["output_cut", "x"]],
                "generated": "",
                "metadata": [],
            }
        ],
    }


def test_errors_are_one_line_and_leave_no_file(run, monkeypatch):
    write_json_lines("found.jsonl", [DOCUMENT])
    Path("page.html").write_text("the page of before")
    Path("bad.jsonl").write_text('{"text": "a", "spans": 5, "problems": []}\n')
    for arguments, message in [
        (["none.jsonl"], "none.jsonl: there is no such file"),
        (["bad.jsonl", "-o", "page.html"], "bad.jsonl, line 1: expected a list under 'spans', found 5"),
        (["found.jsonl", "-o", "found.jsonl"], "found.jsonl is the input; give the output another name"),
        (["found.jsonl", "-o", "no/page.html"], "there is no folder no; create it first"),
    ]:
        result = run(*arguments, code=2)
        assert (result.stdout, result.stderr.count("\n")) == ("", 1)
        assert message in result.stderr

    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert "No space left" in run("found.jsonl", "-o", "page.html", code=2).stderr
    assert Path("page.html").read_text() == "the page of before"
    assert sorted(os.listdir()) == ["bad.jsonl", "found.jsonl", "page.html"]


def test_a_terminal_gets_no_page(tmp_path, monkeypatch, capsys):
    write_json_lines(tmp_path / "found.jsonl", [DOCUMENT])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(typer.Exit):
        view(tmp_path / "found.jsonl")
    output = capsys.readouterr()
    assert output.out == ""
    assert "pass --output page.html" in output.err


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_read_as_html(text):
    span = Span(0, len(text.rstrip()), text.strip()) if text.strip() == text else None
    spans = (span,) if span else ()
    relations = (Relation(span, span, text),) if span else ()
    document = Document(text, spans, relations, text, None, (Problem(text, text),), {}, text)
    plain = Page(build_page([Document("a", (Span(0, 1, "b"),), (), "c")], "title"))
    page = Page(build_page([document], text))
    assert [*map(repr, page.tags)] == [*map(repr, plain.tags)]
    (found,) = page.data["documents"]
    assert (found["text"], found["id"], found["generated"], found["problems"]) == (text, text, text, [[text, text]])
    assert page.data["labels"] == [span.label for span in spans]
    assert page.texts["script"][1] == plain.texts["script"][1]
    assert not {"<", ">", "&", "\u2028", "\u2029", "\r", "\0"} & {*page.texts["script"][0]}


def test_single_surrogates_of_names_are_written():
    document = Document("a", (Span(0, 1, "\ud800"),), (), "\udfff")
    page = build_page([document], "\udcff.jsonl")
    data = Page(page.encode("utf-8").decode("utf-8")).data
    assert data["labels"] == ["\ud800"]
    assert data["documents"][0]["id"] == "\udfff"


def test_the_policy_allows_this_script_and_style_alone():
    page = build_page([DOCUMENT], "a")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (style,), (script,) = (
        re.findall(r"<style>(.*?)</style>", page, re.S),
        re.findall(r"<script>(.*?)</script>", page, re.S),
    )
    for name, text in (("style-src", style), ("script-src", script)):
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_nothing_is_loaded_and_nothing_is_made_of_html():
    page = build_page([DOCUMENT], "a")
    for pattern in (r"https?:", r"\bsrc=", r"\bhref=", r"@import", r"url\(", r"\bon\w+=\"", r"\bstyle="):
        assert not re.search(pattern, page), pattern
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "DOMParser",
        "setAttribute",
    ):
        assert word not in page


def test_the_colours_are_those_of_the_reports():
    style = pytest.importorskip("benchmarks.report.style")
    page = build_page([], "a")
    colours = {colour.lower() for colour in re.findall(r"\.c\d \{ --colour: (#\w+)", page)}
    assert colours == {kind.colour.lower() for kind in style.KINDS} - {style.INK}
