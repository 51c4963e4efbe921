"""Decoding with and without a grammar, on a tiny model and generated sentences."""

import json
from dataclasses import asdict

import pytest

from benchmarks import toy
from benchmarks.decoding.__main__ import main
from benchmarks.decoding.measure import outputs
from benchmarks.settings import read_json
from peft_fishdip.tasks import Calibration, Decoded, NerExample, Problem

from . import tiny

DATA_SET = "conll04"


@pytest.fixture
def options(tmp_path):
    """Of a measurement with two steps."""
    tokenizer = tiny.tokenizer()
    tiny.t5(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "conll04").mkdir()
    for seed, part in enumerate(("train", "dev")):
        rows = []
        for example in toy.sentences(20, seed):
            entities = [{"type": x.label, "start": x.start, "end": x.end} for x in example.spans]
            relations = [{"type": "Live_In", "head": 0, "tail": 1}] if len(entities) > 1 else []
            rows.append({"tokens": [*example.tokens], "entities": entities, "relations": relations})
        (tmp_path / "conll04" / f"conll04_{part}.json").write_text(json.dumps(rows), encoding="utf-8")
    common = ["measure", "--data", str(tmp_path), "--model", str(tmp_path / "base"), "--data-sets", DATA_SET]
    sizes = ["--num-train", "8", "--num-validation", "3", "--rounds", "2"]
    return [*common, *sizes, "--output", str(tmp_path / "runs")]


def test_runs_are_made_once_and_reported(options, tmp_path, capsys):
    assert main([*options, "--steps", "2"]) == 0
    path = tmp_path / "runs" / DATA_SET / "seed-0.json"
    run, before = read_json(path), path.read_bytes()
    free, constrained = (run["ways"][way] for way in ("free", "constrained"))
    assert constrained["malformed"] == 0
    assert free["malformed"] == 3  # a model of two steps writes nothing that makes sense
    for way in (free, constrained):
        assert len(way["seconds"]) == len(way["cpu_seconds"]) == 2
        assert 0 <= way["scores"]["relation_f1"] <= 1
    assert run["calibration"] is None  # no span was found, so that there is none to score
    assert main([*options, "--steps", "2"]) == 0
    assert path.read_bytes() == before
    assert main([*options, "--steps", "3"]) == 2
    assert "other settings" in capsys.readouterr().err
    calibration = Calibration.of([0.25, 0.9, 0.95], [False, True, False])
    bins = [asdict(each) for each in calibration.bins]
    path.write_text(json.dumps({**run, "calibration": {"error": calibration.error, "bins": bins}}), encoding="utf-8")

    assert main(["report", "--output", str(tmp_path / "runs"), "--to", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "| conll04 seed 0 | without | 100.0     |" in text
    assert "| conll04 seed 0 | with    | 0.0       |" in text
    assert "relation f1" in text
    assert str(tmp_path) not in text
    picture = tmp_path / "report" / "pictures" / "reliability-conll04-seed-0.svg"
    assert picture.name in text
    assert "expected calibration error 0.43" in picture.read_text(encoding="utf-8")
    assert len(read_json(tmp_path / "report" / "results.json")["runs"]) == 1


def test_outputs_are_counted_once_each():
    def result(*kinds):
        return Decoded(NerExample(["a"]), tuple(Problem(kind, "") for kind in kinds), "")

    some = [
        result(),
        result("source_cut", "output_cut"),
        result("format_error", "format_error", "wrong_reconstruction"),
        result("partial_token"),
        result("label_error", "output_cut"),
    ]
    found = outputs(some)
    assert [found[name] for name in ("malformed", "unreadable", "unaligned", "cut")] == [3, 2, 2, 2]
    assert found["problems"]["format_error"] == 1


def test_what_is_wrong_is_one_line(options, tmp_path, capsys):
    for arguments, words in [
        ([*options, "--rounds", "0"], "--rounds 0"),
        ([*options[:4], str(tmp_path / "none"), *options[5:]], "none"),
        ([*options, "--num-train", "999"], "999 are needed"),
        ([*options[:2], str(tmp_path / "none"), *options[3:]], "none"),
        (["report", "--output", str(tmp_path / "none")], "no run yet"),
    ]:
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
