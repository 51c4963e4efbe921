"""Recipes on tiny models and generated sentences."""

from types import SimpleNamespace

import pytest
import torch
from seqeval.metrics import f1_score
from torch.nn.functional import one_hot
from transformers import BertConfig, BertModel

from benchmarks import toy
from benchmarks.recipe.__main__ import main
from benchmarks.recipe.recipes import DEFAULT, RECIPES
from benchmarks.recipe.tagging import IGNORED, scores, to_features
from benchmarks.settings import read_json
from peft_fishdip.tasks import Span, spans_to_tags

from . import tiny

DATA_SET = "masakhaner-swa"


LABELS = {"Peop": "PER", "Org": "ORG", "Loc": "LOC"}


@pytest.fixture(params=["tagger", "writer", "decoder"])
def kind(request):
    return request.param


@pytest.fixture
def options(tmp_path, kind):
    """Of a measurement with two steps for each recipe."""
    tokenizer = tiny.tokenizer()
    if kind == "writer":
        model = tiny.t5(vocab_size=len(tokenizer))
    elif kind == "decoder":
        model = tiny.llama(vocab_size=len(tokenizer))
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
        model = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes))
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    for seed, part in enumerate(("train", "dev")):
        lines = []
        for example in toy.sentences(20, seed):
            spans = [Span(span.start, span.end, LABELS[span.label]) for span in example.spans]
            lines.append(zip(example.tokens, spans_to_tags(spans, len(example.tokens)), strict=True))
        text = "\n\n".join("\n".join(map(" ".join, sentence)) for sentence in lines)
        path = tmp_path / "masakhaner" / "swa" / f"{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    common = ["measure", "--data", str(tmp_path), "--model", str(tmp_path / "base"), "--data-sets", DATA_SET]
    return [*common, "--seeds", "0", "--num-train", "8", "--num-validation", "6", "--output", str(tmp_path / "runs")]


def test_runs_are_made_once_and_reported(options, kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(RECIPES, kind, [DEFAULT, *RECIPES[kind][5::3]])
    assert main([*options, "--steps", "2"]) == 0
    files = {path: path.read_bytes() for path in (tmp_path / "runs" / DATA_SET).glob("*.json")}
    assert len(files) == len(RECIPES[kind])
    run = read_json(tmp_path / "runs" / DATA_SET / f"{DEFAULT.name}-seed-0.json")
    assert 0 <= run["f1"] <= 1
    assert run["validation_loss"] > 0
    assert (run["settings"]["steps"], len(run["overlaps"])) == (2, 1)

    next(iter(files)).unlink()
    report = ["report", "--output", str(tmp_path / "runs"), "--to", str(tmp_path / "report")]
    assert main(report) == 2
    assert "no seed" in capsys.readouterr().err
    assert main([*options, "--steps", "2"]) == 0
    assert capsys.readouterr().err.count("F1") == 1
    assert all(path.read_bytes() == before for path, before in [*files.items()][1:])

    assert main(report) == 0
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert text.count("\n| Fish-Dip, auto, AdamW 0.001 ") == 2  # the mean, and the data set
    assert "default minus best" in text
    assert str(tmp_path) not in text
    assert len(read_json(tmp_path / "report" / "results.json")["runs"]) == len(RECIPES[kind])


def test_runs_of_other_settings_are_not_mixed(options, kind, capsys, monkeypatch):
    monkeypatch.setitem(RECIPES, kind, RECIPES[kind][-1:])
    assert main([*options, "--steps", "1"]) == 0
    assert main([*options, "--steps", "3"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["measure", "--data", str(tmp_path), "--model", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


def test_scores_are_those_of_seqeval():
    tags = ["O", *(f"{prefix}-{label}" for label in toy.LABELS for prefix in "BI")]
    examples = toy.sentences(30, seed=0)
    features = to_features(examples, tags, tiny.tokenizer(), max_length=100)
    generator = torch.Generator().manual_seed(0)
    gold, guesses = [], {}
    for example, row in zip(examples, features, strict=True):
        gold.append(spans_to_tags(example.spans, len(example.tokens)))
        labels = torch.tensor(row["labels"])
        noise = torch.randint(len(tags), labels.shape, generator=generator)
        keep = (torch.rand(labels.shape, generator=generator) < 0.7) & (labels != IGNORED)
        guesses[tuple(row["input_ids"])] = torch.where(keep, labels, noise)
    predicted = [
        [tags[i] for i in guesses[tuple(row["input_ids"])][torch.tensor(row["labels"]) != IGNORED]] for row in features
    ]

    class Model(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            rows = [
                guesses[tuple(row[mask.bool()].tolist())] for row, mask in zip(input_ids, attention_mask, strict=True)
            ]
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            return SimpleNamespace(logits=10.0 * one_hot(padded, len(tags)))

    f1, loss = scores(Model(), features, examples, tags)
    assert f1 == pytest.approx(f1_score(gold, predicted))
    assert 0.3 < f1 < 1
    assert loss > 0
