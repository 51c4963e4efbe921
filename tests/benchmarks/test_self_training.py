"""Self-training as experiments: unlabelled sentences, what is refused, and results that keep their fingerprints."""

import json
from dataclasses import replace

import pytest

from benchmarks.__main__ import main
from benchmarks.data_sets import DEFAULT_DATA_SETS, load
from benchmarks.experiment import EXPERIMENTS, load_experiments
from benchmarks.problems import Protocol, problem
from benchmarks.results import read_results
from benchmarks.settings import SettingsError
from peft_fishdip.tasks import Span
from peft_fishdip.tasks.self_training import loop

from . import tiny

SIZE = [
    "--steps",
    "4",
    "--batch-size",
    "2",
    "--max-length",
    "64",
    "--max-test",
    "2",
    "--rates",
    "own",
    "--max-plain",
    "0",
]
METHODS = ["--methods", "fishdip/default", "self_training", "--fractions", "0.02", "--unlabelled-fraction", "0.02"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny.saved(tmp_path_factory.mktemp("base"), tiny.bert, tiny.tokenizer())


@pytest.fixture
def talkative(monkeypatch):
    """Any model finds a person in each text, so that there are rounds whatever it has learnt."""
    label_texts = loop.label_texts

    def label(model, tokenizer, task, texts, **options):
        found = label_texts(model, tokenizer, task, texts, **options)
        person = (Span(0, 1, "person"),)
        return [replace(x, prediction=replace(x.prediction, spans=x.prediction.spans or person)) for x in found]

    monkeypatch.setattr(loop, "label_texts", label)


@pytest.mark.parametrize("name", [name for kind, name in DEFAULT_DATA_SETS.items() if kind != "relation"])
def test_unlabelled_examples_are_others_than_the_labelled_ones_and_have_no_labels(data_folder, name):
    few = Protocol(fraction=0.5, max_train=4, unlabelled_fraction=0.5)
    found = problem(name, data_folder, few, seed=1)
    assert (len(found.train), len(found.unlabelled)) == (4, 8)
    for example in found.unlabelled:
        labels = [getattr(example, part, ()) for part in ("spans", "relations", "arguments", "state")]
        assert labels == [()] * 4
    ids = [example.id for example in (*found.train, *found.unlabelled)]
    assert len(set(ids)) == len(ids)
    assert found.train == problem(name, data_folder, Protocol(fraction=0.5, max_train=4), seed=1).train
    others = problem(name, data_folder, few, seed=2)
    assert [x.id for x in others.unlabelled] != [x.id for x in found.unlabelled]


def test_a_protocol_names_its_unlabelled_share_and_older_ones_keep_their_names():
    assert Protocol(fraction=0.5).title("ner") == "50 % of the training examples"
    assert Protocol(fraction=0.5).tag("ner") == "fraction-0.5"
    more = Protocol(fraction=0.5, unlabelled_fraction=0.2)
    assert more.title("ner") == "50 % of the training examples, and 20 % of the others without labels"
    assert more.tag("ner") == "fraction-0.5-unlabelled-0.2"
    assert problem("generated", None, Protocol(fraction=0.5), seed=0).unlabelled == []
    with pytest.raises(SettingsError, match=r"unlabelled_fraction=1\.5"):
        Protocol(unlabelled_fraction=1.5)


def test_results_that_are_older_than_self_training_keep_their_settings():
    (experiment,) = load_experiments(["fishdip/default"], {})
    assert not experiment.params.as_dict().keys() & {"self_training_rounds", "reweight"}
    plain, reweighted = (x.params.as_dict() for x in load_experiments(["self_training"], {}))
    assert (plain["reweight"], reweighted["reweight"]) == (False, True)
    assert plain["self_training_rounds"] == reweighted["self_training_rounds"] > 0


@pytest.mark.parametrize(("adapter", "params"), [(None, {}), ({"peft_type": "LORA"}, {"optimizer": "adafactor"})])
def test_self_training_needs_an_adapter_and_adamw(tmp_path, adapter, params):
    folder = tmp_path / "mine" / "rounds"
    folder.mkdir(parents=True)
    if adapter:
        (folder / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    (folder / "training_params.json").write_text(json.dumps({"self_training_rounds": 1, **params}), encoding="utf-8")
    with pytest.raises(SettingsError, match="self_training_rounds=1 is for an adapter that AdamW trains"):
        load_experiments(["mine"], {}, [EXPERIMENTS, tmp_path])


def test_runs_with_and_without_unlabelled_sentences(bert, tmp_path, capsys, talkative):
    arguments = ["compare", "--model", bert, *SIZE, *METHODS, "--output", str(tmp_path)]
    assert main(arguments) == 0
    results = {r["run_info"]["experiment_name"]: r for r in read_results(tmp_path)}
    assert {r["train_info"]["status"] for r in results.values()} == {"success"}
    count = len(load("generated", None).train)
    for title, result in results.items():
        config, info = result["run_info"]["train_config"], result["train_info"]
        assert config["num_unlabelled_examples"] == round(0.02 * (count - config["num_train_examples"]))
        assert ("self_training" in info) == title.startswith("self_training/")
        if "self_training" in info:
            assert [record["round"] for record in info["self_training"]] == [0, 1]
            assert info["stopped_at"] == 4 + 5
        assert info["num_trainable_params"] == results["fishdip/default"]["train_info"]["num_trainable_params"]
    assert {*results["self_training/plain"]["train_info"]["self_training"][1]["weights"]} <= {1.0, None}
    report = (tmp_path / "report.md").read_text(encoding="utf-8").replace("\\", "")
    assert "self_training/plain: round 1 kept " in report
    assert "2 % of the others without labels" in report
    capsys.readouterr()
    assert main([*arguments[:-3], "0.5", *arguments[-2:]]) == 2
    assert "unlabelled fraction was 0.02, is 0.5" in capsys.readouterr().err


def test_without_unlabelled_sentences_it_is_not_possible(bert, data_folder, tmp_path, capsys):
    some = ["--methods", "fishdip/default", "self_training/plain", "--fractions", "0.02"]
    assert main(["compare", "--model", bert, *SIZE, *some, "--output", str(tmp_path / "a")]) == 0
    told = capsys.readouterr().err
    assert "not possible: self_training/plain on generated: it learns from unlabelled sentences" in told
    more = ["--unlabelled-fraction", "0.5", "--tasks", "relation", "--data", str(data_folder), "--meta-steps", "2"]
    few = ["--ways", "3", "--episodes", "1", "--output", str(tmp_path / "b")]
    assert main(["compare", "--model", bert, *SIZE, *some, *more, *few]) == 0
    assert "self_training/plain on fewrel: episodes have no unlabelled sentences" in capsys.readouterr().err


def test_a_teacher_that_finds_nothing_is_noted(bert, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("peft_fishdip.tasks.self_training.pseudo.confidence_of", lambda _: -1.0)
    arguments = ["--methods", "self_training/plain", "--fractions", "0.02", "--unlabelled-fraction", "0.02"]
    assert main(["compare", "--model", bert, *SIZE, *arguments, "--output", str(tmp_path)]) == 0
    (result,) = read_results(tmp_path)
    assert len(result["train_info"]["self_training"]) == 1
    assert "self-training stopped before round 1" in result["train_info"]["notes"][0]
