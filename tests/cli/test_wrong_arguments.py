"""One wrong value of each argument of each verb: one line on stderr that says what to do, exit code 2, and no file."""

from __future__ import annotations

from pathlib import Path

import pytest

from .test_extraction import place, run  # noqa: F401  # a fixture

MISSING = "there is no such f"
NO_FOLDER = "there is no folder no; create it first"
RANGE = "--batch-size"
DEVICE = "--device 'tpu': choose 'cpu' or 'cuda'"
MODEL = "the base model './none' is a folder that is not there"
HELP = "--help` lists what there is"

TRAIN = ["train", "data.jsonl", "--model", "base", "-o", "new"]
PREDICT = ["predict", "adapter", "raw.txt"]
EVALUATE = ["evaluate", "adapter", "data.jsonl"]
SUGGEST = ["suggest", "adapter", "raw.txt"]
CONVERT = ["convert", "data.jsonl", "new", "--to", "prodigy"]
VIEW = ["view", "data.jsonl"]


@pytest.fixture
def here(place, tmp_path, monkeypatch):  # noqa: F811
    """A folder with links to an adapter, its base model and its data, and a raw text."""
    monkeypatch.chdir(tmp_path)
    for name in ("adapter", "base", "data.jsonl"):
        Path(name).symlink_to(place / name)
    Path("raw.txt").write_text("Bo left Rome .\n", encoding="utf-8")
    Path("words.txt").write_text("just some words\n", encoding="utf-8")
    Path("folder").mkdir()
    Path("folder", "file").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "none.jsonl", *TRAIN[2:]], MISSING),
        (["train", "words.txt", *TRAIN[2:]], "say which with --from, one of"),
        (["train", "data.jsonl", "--model", "base"], "Missing option '--output'"),
        ([*TRAIN, "-o", "raw.txt"], "raw.txt is a file; give the name of a new folder"),
        ([*TRAIN, "-o", "folder"], "folder exists; give another name, or pass overwrite (--overwrite)"),
        ([*TRAIN, "-o", "folder", "--overwrite"], "folder holds no adapter, so that it is not replaced; give another"),
        ([*TRAIN, "--model", "./none"], MODEL),
        ([*TRAIN, "--label", "PER"], "--label PER: give LABEL=WORDS"),
        ([*TRAIN, "--folds", "1"], "--folds 1: give 2 or more"),
        ([*TRAIN, "--held-out", "1"], "--held-out 1.0: give a share"),
        ([*TRAIN, "--steps", "0"], "--steps 0: give a whole number above 0"),
        ([*TRAIN, "--steps", "ten"], "Invalid value for '--steps'"),
        ([*TRAIN, "--batch-size", "0"], "--batch-size 0: give a whole number above 0"),
        ([*TRAIN, "--optimizer", "sgd"], "--optimizer 'sgd': choose one of adamw, sparse_adafactor"),
        ([*TRAIN, "--lr", "0"], "--lr 0.0: give a number above 0, such as 1e-3"),
        ([*TRAIN, "--density", "2"], "--density 2.0: give a share above 0 and up to 1"),
        ([*TRAIN, "--update-interval", "0"], "--update-interval 0: give a whole number above 0"),
        ([*TRAIN, "--seed", "-1"], "--seed -1: give a whole number from 0"),
        ([*TRAIN, "--template", "x"], "put {source}"),
        ([*TRAIN, "--chat"], "chat"),
        ([*TRAIN, "--resume"], "holds no unfinished training; leave resume (--resume) out"),
        ([*TRAIN, "--device", "tpu"], DEVICE),
        ([*TRAIN, "--refits"], "No such option: --refits"),
        (["predict", "none", "raw.txt"], MISSING),
        (["predict"], "Missing argument"),
        (["predict", "adapter", "none.txt"], MISSING),
        (["predict", "adapter", "folder"], "no file .txt or .jsonl in this folder; give the files themselves"),
        ([*PREDICT, "-o", "no/out.jsonl"], NO_FOLDER),
        ([*PREDICT, "-o", "folder"], "folder is a folder; give the name of a file in it"),
        ([*PREDICT, "-o", "raw.txt"], "raw.txt is the input; give the output another name"),
        (
            [*PREDICT, "-o", "folder", "--format", "brat"],
            "folder exists and is no empty folder; give the name of a new",
        ),
        ([*PREDICT, "--format", "xml"], "--format xml: choose one of jsonl"),
        ([*PREDICT, "--batch-size", "0"], RANGE),
        ([*PREDICT, "--model", "./none"], MODEL),
        ([*PREDICT, "--device", "tpu"], DEVICE),
        (["evaluate", "none", "data.jsonl"], MISSING),
        (["evaluate", "adapter", "none.jsonl"], MISSING),
        ([*EVALUATE, "--plot", "plot.gif"], "plot.gif: give a name that ends with .png, .svg, .pdf"),
        ([*EVALUATE, "--plot", "no/plot.png"], NO_FOLDER),
        ([*EVALUATE, "--batch-size", "0"], RANGE),
        ([*EVALUATE, "--model", "./none"], MODEL),
        ([*EVALUATE, "--device", "tpu"], DEVICE),
        (["suggest", "none", "raw.txt"], MISSING),
        (["suggest", "adapter", "none.txt"], MISSING),
        ([*SUGGEST, "--n", "0"], "Invalid value for '--n'"),
        ([*SUGGEST, "--known", "none.jsonl"], MISSING),
        (["suggest", "adapter", "-", "--jsonl"], "line 1: expected a JSON object in each line"),
        ([*SUGGEST, "--batch-size", "0"], RANGE),
        ([*SUGGEST, "--model", "./none"], MODEL),
        ([*SUGGEST, "--device", "tpu"], DEVICE),
        (["convert", "none.jsonl", *CONVERT[2:]], MISSING),
        (["convert", "words.txt", *CONVERT[2:]], "say which with --from, one of"),
        ([*CONVERT[:2], "no/new", *CONVERT[3:]], NO_FOLDER),
        ([*CONVERT[:3]], "Missing option '--to'"),
        ([*CONVERT[:3], "--to", "word"], "--to word: choose one of"),
        ([*CONVERT, "--from", "word"], "--from word: choose one of"),
        ([*CONVERT, "--unit", "bytes"], "unit='bytes': choose one of"),
        ([*CONVERT, "--encoding", "nope"], "encoding='nope': Python knows no encoding"),
        ([*CONVERT, "--read", "x=1"], "--read x=1: options of the format 'doccano' are"),
        ([*CONVERT, "--write", "x=1"], "--write x=1: options of the format 'prodigy' are"),
        ([*CONVERT[:2], "data.jsonl", *CONVERT[3:], "--overwrite"], "is the input; give the output another name"),
        (["view", "none.jsonl"], MISSING),
        ([*VIEW, "-o", "no/page.html"], NO_FOLDER),
        ([*VIEW, "-o", "folder"], "folder is a folder; give the name of a file in it"),
        ([*VIEW, "-o", "data.jsonl"], "data.jsonl is the input; give the output another name"),
        ([*VIEW, "--from", "word"], "--from word: choose one of"),
        ([*VIEW, "--unit", "bytes"], "unit='bytes': choose one of"),
        ([*VIEW, "--encoding", "nope"], "encoding='nope'"),
        ([*VIEW, "--read", "x=1"], "--read x=1: options"),
        (["viev", "data.jsonl"], "No such command 'viev'"),
    ],
)
def test_each_is_one_line(here, arguments, said):
    before = sorted(here.rglob("*"))
    result = run(*arguments, input="words\n")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert sorted(here.rglob("*")) == before


def test_wrong_usage_names_the_help(here):
    assert run(*TRAIN, "--steps", "ten").stderr.rstrip().endswith(f"`fishdip train {HELP}")
    assert run("viev").stderr.rstrip().endswith(f"`fishdip {HELP}")
    assert run().exit_code == 2
    assert "Usage: fishdip" in run().output
    shown = run("train", "--help")
    assert shown.exit_code == 0
    assert "--held-out" in shown.stdout
