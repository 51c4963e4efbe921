"""fishdip convert: what is written, what is said, and that nothing is half-written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from peft_fishdip.cli.convert import convert
from peft_fishdip.tasks import Document, Problem, Relation, Span, SrlTask, read, write, write_json_lines

MIA, ACME = Span(0, 3, "PER"), Span(13, 17, "ORG")
WORKS = Relation(MIA, ACME, "works_for")
DOCUMENT = Document("Mia works at Acme.", (MIA, ACME), (WORKS,), "d1")
PLAIN = Document("Mia  left 😀 Oslo.", (Span(0, 3, "PER"), Span(12, 16, "LOC")), (), "d2")
SCORED = Document(
    "Mia works at Acme.",
    (MIA, ACME),
    (WORKS,),
    "d1",
    None,
    (Problem("output_cut", "[red]x\x1b[31m"),),
    {MIA: 0.5},
    "[ Mia",
)


def text(name):
    return Path(name).read_text(encoding="utf-8")


app = typer.Typer()
app.command()(convert)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, [*arguments])
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def fails(run):
    def fails(*arguments):
        before = {name: os.stat(name).st_mtime_ns for name in os.listdir()}
        result = run(*arguments, code=2)
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert {name: os.stat(name).st_mtime_ns for name in os.listdir()} == before
        return result.stderr

    return fails


def test_a_file_in_another_format(run):
    write("in.jsonl", [DOCUMENT, PLAIN], format="prodigy")
    result = run("in.jsonl", "out.jsonl", "--to", "doccano")
    assert result.stdout == "in.jsonl (prodigy) to out.jsonl (doccano): 2 documents, 4 spans, 1 relation\n"
    assert result.stderr == ""
    assert read("out.jsonl", unit="utf-16").documents == (DOCUMENT, PLAIN)
    assert sorted(os.listdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("name", ["jsonl", "fishdip"])
def test_predictions_are_read_and_written(run, name):
    write_json_lines("found.jsonl", [SCORED, PLAIN])
    result = run("found.jsonl", "out.jsonl", "--to", name)
    assert "found.jsonl (fishdip) to out.jsonl (fishdip)" in result.stdout
    assert os.stat("out.jsonl").st_size > 0
    first, second = ([json.loads(line) for line in text(name).splitlines()] for name in ("found.jsonl", "out.jsonl"))
    assert first == second
    assert run("found.jsonl", "again.jsonl", "--from", name, "--to", "label_studio").exit_code == 0


def test_what_is_lost_is_named(run):
    write_json_lines("found.jsonl", [SCORED])
    stderr = run("found.jsonl", "out.jsonl", "--to", "doccano").stderr
    assert "does not hold scores and problems and generated texts; --to jsonl does" in stderr
    assert read("out.jsonl").documents == (DOCUMENT,)
    stderr = run("found.jsonl", "out.conll", "--to", "conll", "--drop-relations").stderr
    assert "note: relations left out: 1" in stderr
    assert "holds tokens: the white space of the texts, and their ids, are left out" in stderr
    assert text("out.conll") == "Mia\tB-PER\nworks\tO\nat\tO\nAcme\tB-ORG\n.\tO\n\n"


def test_problems_are_a_table_on_stderr(run):
    write_json_lines("found.jsonl", [SCORED])
    (row,) = [line for line in run("found.jsonl", "o", "--to", "jsonl").stderr.splitlines() if "output_cut" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["output_cut", "1", "d1", r"[red]x\x1b[31m"]
    row = '{"id": %d, "text": "in Oslo .", "label": [[2, 8, "LOC"]]}\n'
    Path("spaces.jsonl").write_text(row % 7 + row % 8)
    result = run("spaces.jsonl", "out.jsonl", "--to", "prodigy")
    (row,) = [line for line in result.stderr.splitlines() if "trimmed_span" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")][:3] == ["trimmed_span", "2", "7"]


def test_warnings_of_readers_are_lines_on_stderr(run):
    Path("blank.jsonl").write_text('{"text": "in Oslo", "label": [[2, 3, "LOC"]]}')
    stderr = run("blank.jsonl", "out.jsonl", "--to", "jsonl").stderr
    assert "warning: blank.jsonl: left out: 1 x blank_span" in stderr
    assert "warning: blank.jsonl: 1 examples and no entity in any" in stderr


def test_labels_of_several_words_are_recognised_again(run):
    write("in.jsonl", [Document("Mia left", (Span(0, 3, "full name"),))], format="doccano")
    run("in.jsonl", "out.conll", "--to", "conll")
    run("out.conll", "again.jsonl", "--to", "doccano")
    assert read("again.jsonl").documents == read("in.jsonl").documents


def test_units_of_both_sides(run):
    write("in.jsonl", [PLAIN], format="doccano", unit="characters")
    run("in.jsonl", "out.jsonl", "--to", "doccano", "--unit", "characters", "--write", "unit=graphemes")
    assert json.loads(text("out.jsonl"))["label"] == [[0, 3, "PER"], [12, 16, "LOC"]]
    run("in.jsonl", "js.jsonl", "--to", "doccano", "--unit", "characters")
    assert json.loads(text("js.jsonl"))["label"] == [[0, 3, "PER"], [13, 17, "LOC"]]


def test_options_of_readers_and_writers(run):
    Path("in.conll").write_text("1\tMía\tB-PER\n2\tleft\tO\n\n", encoding="latin-1")
    run("in.conll", "out", "--to", "brat", "--encoding", "latin-1", "--read", "token=1", "--read", "tag=2")
    assert sorted(os.listdir("out"))
    assert read("out").examples[0].tokens == ("Mía", "left")
    run(
        "in.conll", "t.json", "--to", "label_studio", "--encoding=latin-1", "--read=token=1", "--write=predictions=true"
    )
    assert "predictions" in json.loads(text("t.json"))[0]


def test_existing_files_stay(run, fails):
    write("in.jsonl", [DOCUMENT], format="doccano")
    write("out.jsonl", [PLAIN], format="doccano")
    assert "out.jsonl exists; give another name, or pass --overwrite" in fails(
        "in.jsonl", "out.jsonl", "--to", "prodigy"
    )
    assert "is the input" in fails("in.jsonl", "./in.jsonl", "--to", "prodigy", "--overwrite")
    run("in.jsonl", "out.jsonl", "--to", "prodigy", "--overwrite")
    assert read("out.jsonl").documents == (DOCUMENT,)
    os.mkdir("empty")
    run("in.jsonl", "empty", "--to", "brat")
    assert "exists and is no empty folder" in fails("in.jsonl", "empty", "--to", "brat", "--overwrite")


def test_what_is_wrong_is_one_line(run, fails):
    write("in.jsonl", [DOCUMENT], format="doccano")
    write("joint.jsonl", [DOCUMENT], format="prodigy")
    write_json_lines("roles.jsonl", [SrlTask(["A0"]).decode("Ann [ sold ] it", "[ Ann | A0 ] sold it")])
    Path("words.txt").write_text("just some words\n")
    Path("bad.conll").write_text("Ann B-PER\nleft o\n")
    Path("blank.jsonl").write_text('{"tokens": ["", "b"], "ner_tags": ["B-X", "O"]}\n')
    Path("folder").mkdir()
    Path("folder", "train.conll").write_text("Ann B-PER\n")
    Path("bad.jsonl").write_text('{"text": "Mia", "label": [[0, 9, "\u202e"]]}\n', encoding="utf-8")
    Path("rel.txt").write_text('1\t"<e1>Mia</e1> left <e2>Oslo</e2>."\nOther\nComment:\n')
    for arguments, message in [
        (["none.jsonl", "o", "--to", "doccano"], "none.jsonl: there is no such file or folder"),
        (["in.jsonl", "o", "--to", "word"], "--to word: choose one of brat, conll, doccano, fishdip, gliner, jsonl"),
        (["in.jsonl", "o", "--to", "doccano", "--from", "word"], "--from word: choose one of ace05, brat"),
        (["in.jsonl", "no/o", "--to", "brat"], "there is no folder no; create it first"),
        (["in.jsonl", "o", "--to", "gliner"], "cannot hold relations, of which the input has 1; pass --drop-relations"),
        (["words.txt", "o", "--to", "doccano"], "words.txt: no known format fits its first lines"),
        (["bad.jsonl", "o", "--to", "doccano"], "bad.jsonl, line 1: expected offsets in utf-16 from 0 to 3"),
        (["roles.jsonl", "o", "--to", "doccano"], "spans of entities; predictions of semantic roles hold none"),
        (["rel.txt", "o", "--to", "doccano"], "holds records of the type RelationExample; give a file of entities"),
        (["in.jsonl", "o", "--to", "prodigy", "--unit", "bytes"], "unit='bytes': choose one of 'characters'"),
        (
            ["joint.jsonl", "o", "--to", "doccano", "--unit", "utf-8"],
            "--unit utf-8: the format 'prodigy' leaves no choice",
        ),
        (
            ["in.jsonl", "o", "--to", "doccano", "--write", "x=1"],
            "options of the format 'doccano' are NAME=VALUE, one of",
        ),
        (["in.jsonl", "o", "--to", "brat", "--write", "x=1"], "--write x=1: options of the format 'brat' are none"),
        (["in.jsonl", "o", "--to", "doccano", "--read", "unit"], "--read unit: options of the format 'doccano' are"),
        (["in.jsonl", "o", "--to", "doccano", "--encoding", "nope"], "encoding='nope': Python knows no encoding"),
        (
            ["in.jsonl", "o", "--to", "doccano", "--encoding", "hex"],
            "encoding='hex': Python knows no encoding of texts",
        ),
        (
            ["in.jsonl", "o", "--to", "doccano", "--read", "encoding=null"],
            "encoding='null': Python knows no encoding of texts",
        ),
        (["folder", "o", "--to", "doccano"], "folder, folder: expected files .ann with their .txt beside them"),
        (["bad.conll", "o", "--to", "doccano"], "bad.conll, line 2: expected O or one of B-, I-"),
        (["blank.jsonl", "o", "--to", "doccano"], "the record 'blank.jsonl:0': a span begins or ends at token 0"),
    ]:
        assert message in fails(*arguments), arguments


def test_an_interrupted_write_leaves_nothing(run, monkeypatch):
    write("in.jsonl", [DOCUMENT], format="doccano")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = run("in.jsonl", "out.jsonl", "--to", "prodigy", code=2)
    assert result.stderr == "error: [Errno 28] No space left on device\n"
    assert os.listdir() == ["in.jsonl"]
