"""The files of a report: complete, self-contained, the same for the same results."""

import json
import random
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from benchmarks.report import write_report
from benchmarks.settings import SettingsError

from .made import make_result, markdown_tables, various

VOID = {"meta", "wbr"}


class Page(HTMLParser):
    """Tables as lists of rows of cells; everything that would load something."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tables, self.links, self.ids, self.best = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value for name, value in attributes.items() if name in ("href", "src", "xlink:href", "action")]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            if "best" in attributes.get("class", "").split():
                self.best.append((len(self.tables) - 1, self.tables[-1][-1][0], len(self.tables[-1][-1]) - 1))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def page(written):
    return Page((written[0] / "report.html").read_text(encoding="utf-8"))


def test_all_files_are_there_and_returned(written):
    folder, paths = written
    assert paths[:2] == [folder / "report.md", folder / "report.html"]
    assert sorted(paths) == sorted(path for path in folder.rglob("*") if path.is_file())
    kinds = {path.name.split("-")[0] for path in paths[2:]}
    assert kinds == {"fraction", "score", "size", "time", "memory", "loss", "overlap", "layers"}


def test_pictures_are_svg_that_loads_nothing_and_are_all_in_both_reports(written, text):
    folder, paths = written
    html = (folder / "report.html").read_text(encoding="utf-8")
    for path in paths[2:]:
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        values = [(key, value) for element in root.iter() for key, value in element.attrib.items()]
        references = [value.removeprefix("#") for key, value in values if key.endswith("href")]
        references += [name for _, value in values for name in re.findall(r"url\(#(.*?)\)", value)]
        assert set(references) <= {value for key, value in values if key == "id"}
        assert not any(re.search(r"url\((?!#)|https?:", value) for _, value in values)
        assert f"](pictures/{path.name})" in text
        assert f'id="{path.stem}-figure_1"' in html


def test_the_page_has_the_same_tables(text, page):
    def plain(cell):
        for mark, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
            cell = cell.replace(mark, sign)
        return re.sub(r"\\(.)", r"\1", cell.removeprefix("**").removesuffix("**"))

    assert page.tables == [[[plain(cell) for cell in line] for line in table] for table in markdown_tables(text)]
    bold = [
        (number, plain(line[0]), column)
        for number, table in enumerate(markdown_tables(text))
        for line in table[1:]
        for column, cell in enumerate(line)
        if cell.startswith("**")
    ]
    assert page.best == bold


def test_the_page_needs_nothing_else_and_escapes_what_comes_from_results(written, page):
    html = (written[0] / "report.html").read_text(encoding="utf-8")
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"https?:|@import|url\((?!#)", html)
    assert html.count("<script") == 1
    assert "<script>alert" not in html
    assert "<script>" not in (written[0] / "report.md").read_text(encoding="utf-8")


def test_the_same_results_give_the_same_bytes_in_any_order(written, tmp_path):
    folder, paths = written
    results = json.loads(json.dumps(various()))
    random.Random(1).shuffle(results)
    for path in write_report(results, tmp_path):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes()
    assert len(list(tmp_path.rglob("*.svg"))) == len(paths) - 2


def test_what_has_nothing_to_show_is_left_out(tmp_path):
    paths = write_report([make_result("lora/rank-8", "wnut17")], tmp_path)
    assert {path.name.split("-")[0] for path in paths[2:]} == {"score", "time", "memory"}
    text = paths[0].read_text(encoding="utf-8")
    assert "## Overview" in text
    assert not re.search("^## (Masks|Training|The paper)", text, re.M)
    assert "**" not in "".join(cell for table in markdown_tables(text) for line in table for cell in line)


def test_only_failures_still_make_a_report(tmp_path):
    paths = write_report([make_result(error="ValueError: no")], tmp_path)
    assert len(paths) == 2
    assert "failed: ValueError: no" in paths[0].read_text(encoding="utf-8")


def test_pictures_of_an_earlier_report_go_and_nothing_else(tmp_path):
    write_report([make_result(), make_result("full/adamw")], tmp_path)
    mine = tmp_path / "pictures" / "mine.svg"
    mine.touch()
    paths = write_report([make_result(dataset="wnut17")], tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*paths, mine}


def test_a_report_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "pictures").touch()
    with pytest.raises(SettingsError, match=r"pictures cannot be a folder"):
        write_report([make_result()], tmp_path)


def broken(**changes):
    result = make_result()
    result["run_info"]["train_config"].update(changes)
    return result


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "no results"),
        ([make_result(), make_result()], "two results of seed 0"),
        ([broken(task="poetry")], "'poetry' is unknown; there are ner"),
        ([{"run_info": {}}], "train_config"),
        (
            [{"run_info": {"train_config": {"task": "ner"}, "experiment_name": "a/a"}, "train_info": {}}],
            "a/a has no dataset",
        ),
    ],
)
def test_bad_results_are_refused_and_nothing_is_written(tmp_path, results, message):
    with pytest.raises(SettingsError, match=message):
        write_report(results, tmp_path)
    assert list(tmp_path.iterdir()) == []
