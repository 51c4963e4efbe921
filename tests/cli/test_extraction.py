"""The verbs train, predict, evaluate and suggest, from files to files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from peft_fishdip.cli import messages
from peft_fishdip.cli.app import app
from peft_fishdip.tasks import read

from ..support.extracting import DOCUMENTS, learnt_t5, write_doccano

ROOT = Path(__file__).parents[2]
TRAIN = ("--steps", "2", "--lr", "1e-4", "--label", "PER=person", "--label", "LOC=location", "--device", "cpu")
SPANS = {d.text: [(s.start, s.end, s.label) for s in d.spans] for d in DOCUMENTS}


def run(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a base model, annotated sentences and an adapter."""
    folder = tmp_path_factory.mktemp("place")
    learnt_t5(folder / "base")
    data = write_doccano(folder / "data.jsonl")
    result = run("train", data, "--model", folder / "base", "--output", folder / "adapter", *TRAIN)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"saved in {folder / 'adapter'}"]
    assert "no example was held out" in result.stderr
    return folder


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def spans_of(row):
    return [(span["start"], span["end"], span["label"]) for span in row["spans"]]


def failed(result, *parts):
    """Exit code 2, nothing on stdout, and one line on stderr that names all the parts."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.stderr
    for part in parts:
        assert str(part) in lines[0]


def test_predict_reads_files_folders_and_lines(place, tmp_path):
    docs = tmp_path / "docs"
    (docs / "deep" / "er").mkdir(parents=True)
    (docs / "a.txt").write_bytes(b"\xef\xbb\xbfBo left Rome .\r\n")
    (docs / "deep" / "er" / "b.txt").write_text("Ann Lee lives in Oslo .\nRain .\n", encoding="utf-8")
    (docs / "c.jsonl").write_text('{"text": "Rome calls Ann Lee .", "id": 7}\n\n{"text": "Rain ."}\n', encoding="utf-8")
    (docs / "left.pdf").write_bytes(b"%PDF")
    result = run("predict", place / "adapter", docs, "--device", "cpu")
    assert result.exit_code == 0, result.output
    rows = rows_of(result.stdout)
    assert [(row["file"], row["id"]) for row in rows] == [
        ("a.txt", "a.txt"),
        ("c.jsonl", "7"),
        ("c.jsonl", "c.jsonl:3"),
        ("deep/er/b.txt", "deep/er/b.txt"),
    ]
    assert [*rows[0]][:5] == ["id", "file", "text", "spans", "problems"]
    assert rows[0]["text"] == "Bo left Rome .\r\n"
    assert spans_of(rows[0]) == SPANS["Bo left Rome ."]
    assert spans_of(rows[1]) == SPANS["Rome calls Ann Lee ."]
    assert all(0 < span["score"] <= 1 for row in rows for span in row["spans"])
    assert "1 files that are neither" in result.stderr
    lines = run("predict", place / "adapter", docs / "deep" / "er" / "b.txt", "--lines", "--device", "cpu")
    assert [(row["id"], spans_of(row)) for row in rows_of(lines.stdout)] == [
        ("b.txt:1", SPANS["Ann Lee lives in Oslo ."]),
        ("b.txt:2", []),
    ]


def test_predict_reads_stdin_and_writes_files_whole(place, tmp_path):
    piped = run("predict", place / "adapter", "-", "--lines", "--device", "cpu", input="Bo left Rome .\n\nRain .\n")
    assert [spans_of(row) for row in rows_of(piped.stdout)] == [SPANS["Bo left Rome ."], []]
    as_json = run("predict", place / "adapter", "--jsonl", "--device", "cpu", input='{"text": "Rain ."}\n')
    assert [row["text"] for row in rows_of(as_json.stdout)] == ["Rain ."]

    raw = tmp_path / "raw.txt"
    raw.write_text("".join(f"{d.text}\n" for d in DOCUMENTS), encoding="utf-8")
    target = tmp_path / "out.jsonl"
    written = run("predict", place / "adapter", raw, "--lines", "-o", target, "--device", "cpu")
    assert (written.exit_code, written.stdout) == (0, "")
    assert {row["text"]: spans_of(row) for row in rows_of(target.read_text(encoding="utf-8"))} == SPANS
    doccano = tmp_path / "out_doccano.jsonl"
    run("predict", place / "adapter", raw, "--lines", "-o", doccano, "--format", "doccano", "--device", "cpu")
    assert list(read(doccano, format="doccano").documents) == DOCUMENTS

    brat = tmp_path / "brat"
    run("predict", place / "adapter", raw, "-o", brat, "--format", "brat", "--device", "cpu")
    assert sorted(path.name for path in brat.iterdir()) == ["raw.ann", "raw.txt"]  # the names of the text's own file
    assert (brat / "raw.txt").read_bytes() == raw.read_bytes()
    run("predict", place / "adapter", raw, "--lines", "-o", tmp_path / "brat2", "--format", "brat", "--device", "cpu")
    assert len([*(tmp_path / "brat2").iterdir()]) == 2 * len(DOCUMENTS)

    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "Rain ."}\n{"txt": "Rain ."}\n', encoding="utf-8")
    target.unlink()
    failed(run("predict", place / "adapter", bad, "-o", target, "--device", "cpu"), "bad.jsonl, line 2", '"text"')
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bad.jsonl",
        "brat",
        "brat2",
        "out_doccano.jsonl",
        "raw.txt",
    ]


def test_evaluate_shows_scores_by_label(place):
    result = run("evaluate", place / "adapter", place / "data.jsonl", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "f1 1.00, 95 % interval 1.00 to 1.00" in result.stdout
    assert any(line.split()[:4] == ["PER", "1.00", "1.00", "1.00"] for line in result.stdout.splitlines())
    as_json = run("evaluate", place / "adapter", place / "data.jsonl", "--json", "--device", "cpu")
    assert json.loads(as_json.stdout)["scores"]["f1"] == 1.0


@pytest.mark.filterwarnings(r"ignore:.*no entity in any:UserWarning")
def test_evaluate_draws_how_often_spans_are_right(place, tmp_path, monkeypatch):
    command = ("evaluate", place / "adapter", place / "data.jsonl", "--device", "cpu")
    for name, content in (("plot.png", b"\x89PNG"), ("plot.svg", b"expected calibration error"), ("plot.pdf", b"%PDF")):
        result = run(*command, "--plot", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert content in (tmp_path / name).read_bytes()
    bins = json.loads(run(*command, "--json").stdout)["calibration_bins"]
    assert sum(each["count"] for each in bins) == sum(len(spans) for spans in SPANS.values())
    quiet = tmp_path / "quiet.jsonl"
    quiet.write_text('{"text": "Rain .", "label": []}\n', encoding="utf-8")
    result = run("evaluate", place / "adapter", quiet, "--device", "cpu", "--plot", tmp_path / "none.png")
    assert result.exit_code == 0, result.output
    assert "none.png is not written: no span was found" in result.stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    failed(run(*command, "--plot", tmp_path / "none.png"), "a plot needs matplotlib: pip install matplotlib")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plot.pdf", "plot.png", "plot.svg", "quiet.jsonl"]


@pytest.mark.filterwarnings(r"ignore:.*\(output_cut\):UserWarning")  # of words in an order that was never seen
def test_suggest_puts_what_was_never_seen_first(place, tmp_path):
    raw = tmp_path / "raw.txt"
    texts = [*SPANS, "Oslo Rome Bo lives left Ann calls Rome in", "Rain ."]
    raw.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    result = run("suggest", place / "adapter", raw, "--n", "2", "--device", "cpu")
    assert result.exit_code == 0, result.output
    scores, found = zip(*(line.split("\t") for line in result.stdout.splitlines()), strict=True)
    assert found[0] == texts[4]
    assert len(found) == 2
    assert 1 >= float(scores[0]) > float(scores[1]) >= 0
    others = run("suggest", place / "adapter", raw, "--known", place / "data.jsonl", "--json", "--device", "cpu")
    rows = rows_of(others.stdout)
    assert [row["text"] for row in rows] == [texts[4]]
    assert {"id", "uncertainty", "spans"} <= rows[0].keys()
    assert "1 different texts" in others.stderr


def test_held_out_scores_and_folds_are_shown(place, tmp_path):
    many = [d for i in range(6) for d in DOCUMENTS]
    rows = [
        {"text": d.text + " ." * (n // 4), "label": [[s.start, s.end, s.label] for s in d.spans]}
        for n, d in enumerate(many)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = ("--model", place / "base", *TRAIN)
    result = run("train", data, "--output", tmp_path / "one", *options)
    assert result.exit_code == 0, result.output
    assert "held out of 24 examples: 5 texts" in result.stdout
    assert "95 % interval" in result.stdout
    assert json.loads((tmp_path / "one" / "evaluation.json").read_text(encoding="utf-8"))["num_examples"] == 5
    crossed = run("train", data, "--output", tmp_path / "two", "--folds", "2", *options)
    assert "examples of 2 folds: 24" in crossed.stdout
    assert "f1 of the folds:" in crossed.stdout


def test_unlabelled_texts_are_learnt_from(place, tmp_path):
    raw = tmp_path / "raw.txt"
    raw.write_text("Ann Lee left Rome .\n\nBo lives in Oslo .\n", encoding="utf-8")
    more = tmp_path / "more.jsonl"
    more.write_text('{"text": "Rome ."}\n', encoding="utf-8")
    arguments = ("--model", place / "base", "--output", tmp_path / "adapter", *TRAIN, "--unlabelled", raw)
    result = run("train", place / "data.jsonl", *arguments, "--unlabelled", more, "--rounds", "1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("round 0, the first teacher: held-out score 1.000")
    assert lines[1].startswith("round 1: 3 of 3 texts kept, with ")
    assert lines[2:] == ["the best teacher is of round 0", f"saved in {tmp_path / 'adapter'}"]
    rows = json.loads((tmp_path / "adapter" / "self_training.json").read_text(encoding="utf-8"))["rounds"]
    assert [row["num_texts"] for row in rows] == [0, 3]
    raw.write_text("\n", encoding="utf-8")
    other = ("--model", place / "base", "--output", tmp_path / "other", *TRAIN)
    failed(run("train", place / "data.jsonl", *other, "--unlabelled", raw), raw, "there is no text in")
    failed(run("train", place / "data.jsonl", *other, "--unlabelled", tmp_path / "none.txt"), "no such file")
    failed(run("train", place / "data.jsonl", *other, "--unlabelled", more, "--rounds", "0"), "--rounds 0: give a")
    assert not (tmp_path / "other").exists()


@pytest.mark.filterwarnings(r"ignore:.*no entity in any:UserWarning")
def test_wrong_input_is_one_line_with_exit_code_2(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, adapter, new = place / "data.jsonl", place / "adapter", tmp_path / "new"
    empty = tmp_path / "empty.jsonl"
    empty.write_text("", encoding="utf-8")
    blank = tmp_path / "blank.txt"
    blank.write_text("\n \n", encoding="utf-8")
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "Acme .", "label": [[0, 4, "ORG"]]}\n', encoding="utf-8")
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"text": "Acme .", "label": []}\n', encoding="utf-8")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "Acme .", "label": [[0, 99, "ORG"]]}\n', encoding="utf-8")
    model = ("--model", place / "base", "--output", new)
    failed(run("train", tmp_path / "none.jsonl", *model), "none.jsonl", "no such file")
    failed(run("train", empty, *model), "empty.jsonl")
    failed(run("train", bare, *model), "none of the 1 examples has a labelled span")
    failed(run("train", broken, *model), "broken.jsonl", "line 1")
    failed(run("train", data, "--model", "./none", "--output", new), "./none", "is a folder that is not there")
    failed(run("train", data, *model, "--label", "ORG=firm"), "'ORG' does not occur", "'PER'")
    failed(run("train", data, *model, "--label", "PER"), "--label PER", "LABEL=WORDS")
    failed(run("train", data, "--model", place / "base", "--output", adapter), "exists", "--overwrite")
    failed(run("train", data, *model, "--resume"), "no unfinished training")
    failed(run("predict", tmp_path / "none", blank), "no such folder")
    failed(run("predict", place / "base", blank), "no file task.json")
    failed(run("predict", adapter, tmp_path / "none.txt"), "none.txt", "no such file")
    failed(run("predict", adapter, blank, "--lines"), "the input is empty")
    failed(run("predict", adapter, blank, "--format", "doccano"), "--format doccano", "--output")
    failed(run("predict", adapter, blank, "--format", "xml"), "--format xml", "choose one of")
    failed(run("evaluate", adapter, other), "unknown label 'ORG'", "'LOC', 'PER'")
    failed(run("suggest", adapter, blank), "the input is empty")
    left = ["bare.jsonl", "blank.txt", "broken.jsonl", "empty.jsonl", "other.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_too_little_memory_is_said(place, monkeypatch, error):
    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr("peft_fishdip.extractor.extractor.load_base", full)
    failed(run("evaluate", place / "adapter", place / "data.jsonl"), "too little memory", "--batch-size")


def test_errors_of_the_program_keep_their_traceback(place, monkeypatch):
    def wrong(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("peft_fishdip.extractor.extractor.load_base", wrong)
    result = run("evaluate", place / "adapter", place / "data.jsonl")
    assert isinstance(result.exception, RuntimeError)


def test_errors_show_no_control_characters(capsys):
    messages.note("error", "a \x1b[31mb\nc")
    assert capsys.readouterr().err == "error: a \\x1b[31mb c\n"


def test_a_closed_pipe_ends_quietly(place, tmp_path):
    raw = tmp_path / "raw.txt"
    raw.write_text("Bo left Rome .\n" * 3000, encoding="utf-8")
    command = [sys.executable, "-m", "peft_fishdip", "predict", str(place / "adapter"), str(raw), "--lines"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command += ["--device", "cpu", "--batch-size", "4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = json.loads(process.stdout.readline())
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait(60) == 0
    assert spans_of(first) == SPANS["Bo left Rome ."]
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
