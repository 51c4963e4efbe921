"""Rounds of self-training: for each kind of model, to be gone on with, and refused where they cannot be done."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model, get_peft_model_state_dict

from peft_fishdip.tasks import (
    Decoded,
    NerExample,
    Problem,
    RoundRecord,
    SelfTrainingOptions,
    Span,
    predict,
    self_train,
    task_type,
)
from peft_fishdip.tasks.self_training import loop
from peft_fishdip.tasks.self_training.data import split
from peft_fishdip.tasks.self_training.pseudo import agreement, main_score, pseudo_labels

from .cases import LABELLED, TASK, TEXTS, adapted, bert, config_of

QUICK = {"steps": 8, "tuning_steps": 2, "batch_size": 4, "learning_rate": 1e-2, "progress": False}
FOUND = [Decoded(NerExample(("Bo", "left"), (Span(0, 1, "PER"),)), (), "", (0.5,), 0.9)]


@pytest.fixture
def talkative(monkeypatch):
    """Any model finds something in each text, so that there are rounds whatever it has learnt."""
    label_texts = loop.label_texts

    def label(model, tokenizer, task, texts, **options):
        found = label_texts(model, tokenizer, task, texts, **options)
        return [
            replace(x, prediction=replace(x.prediction, spans=x.prediction.spans or (Span(0, 1, "PER"),)))
            for x in found
        ]

    monkeypatch.setattr(loop, "label_texts", label)


def values_of(model):
    return {name: value.clone() for name, value in get_peft_model_state_dict(model).items()}


def base_of(model):
    return {
        name.replace(".base_layer", ""): p.clone()
        for name, p in model.get_base_model().named_parameters()
        if not any(part in name for part in ("fishdip", "lora", "ia3", "flat", ".default", "modules_to_save"))
    }


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("family", "method"),
    [("bert", "fishdip"), ("bert", "lora"), ("t5", "fishdip"), ("t5", "ia3"), ("llama", "fishdip"), ("llama", "lora")],
)
@pytest.mark.parametrize("reweight", [True, False])
def test_rounds_of_each_kind_of_model(family, method, reweight, talkative):
    model, tokenizer = adapted(family, method)
    base, state = base_of(model), torch.random.get_rng_state()
    assert base
    options = {**QUICK, "learning_rate": 1e-3}  # of higher rates a T5 with Fish-Dip warns
    result = self_train(model, tokenizer, TASK, LABELLED, TEXTS, 2, reweight=reweight, **options)
    assert result.model is model
    assert same(base_of(model), base)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [*model.peft_config] == model.active_adapters == ["default"]
    assert not model.training
    assert [record.round for record in result.rounds] == [0, 1, 2]
    assert result.stopped == ""
    best = max(record.score for record in result.rounds)
    assert result.best == [record.score for record in result.rounds].index(best)
    first, *others = result.rounds
    assert (first.num_texts, first.weights, first.agreement) == (0, (), None)
    for record in others:
        assert record.num_texts == record.num_kept == len(record.weights) == len(TEXTS)
        assert record.num_answers >= len(TEXTS)
        assert 0 <= record.agreement <= 1
        drawn = [weight for weight in record.weights if weight is not None]
        assert drawn
        assert reweight or (set(drawn) == {1.0} and record.num_skipped == 0)
        assert all(0 <= weight <= QUICK["batch_size"] for weight in drawn)
    parameters = [name for name, p in model.named_parameters() if p.requires_grad]
    assert parameters  # it can be trained on
    assert f"the best teacher is of round {result.best}" in str(result)
    assert json.loads(json.dumps(result.to_dict()))["best"] == result.best


def test_the_model_holds_the_best_teacher(tmp_path, monkeypatch):
    model, tokenizer = adapted("bert", "fishdip")
    scores = iter([0.25, 0.75, 0.75, 0.5])
    monkeypatch.setattr(loop, "main_score", lambda _: next(scores))
    monkeypatch.setattr(loop.Training, "why_stopped", lambda *_: "")
    result = self_train(model, tokenizer, TASK, LABELLED, TEXTS, 3, folder=tmp_path, **QUICK)
    assert result.best == 1  # the first of equal ones
    fresh, _ = adapted("bert", "fishdip")
    fresh.load_adapter(str(tmp_path / "round-1"), "saved")
    fresh.set_adapter("saved")
    one, other = (predict(x, tokenizer, TASK, TEXTS, progress=False) for x in (model, fresh))
    assert [x.scores for x in one] == [x.scores for x in other]
    assert [x.confidence for x in one] == [x.confidence for x in other]


@pytest.mark.parametrize("method", ["fishdip", "lora"])
def test_a_run_that_was_cut_short_goes_on_exactly(method, tmp_path, monkeypatch, talkative):
    model, tokenizer = adapted("bert", method)
    whole = self_train(model, tokenizer, TASK, LABELLED, TEXTS, 2, folder=tmp_path / "whole", **QUICK)
    train_student = loop.Training.train_student

    def interrupted(self, number, *args):
        if number == 2:
            train_student(self, number, *args)
            raise KeyboardInterrupt
        return train_student(self, number, *args)

    other, _ = adapted("bert", method)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "train_student", interrupted)
        with pytest.raises(KeyboardInterrupt):
            self_train(other, tokenizer, TASK, LABELLED, TEXTS, 2, folder=tmp_path / "part", **QUICK)
    assert [*other.peft_config] == other.active_adapters == ["default"]
    assert sorted(path.name for path in (tmp_path / "part").iterdir()) == ["round-0", "round-1", "settings.json"]
    again, _ = adapted("bert", method)
    torch.manual_seed(77)
    resumed = self_train(again, tokenizer, TASK, LABELLED, TEXTS, 2, folder=tmp_path / "part", **QUICK)
    assert resumed.rounds == whole.rounds
    assert same(values_of(again), values_of(model))
    more, _ = adapted("bert", method)
    longer = self_train(more, tokenizer, TASK, LABELLED, TEXTS, 3, folder=tmp_path / "part", **QUICK)
    assert longer.rounds[:3] == whole.rounds
    done, _ = adapted("bert", method)
    monkeypatch.setattr(loop.Training, "train_student", None)  # nothing is trained again
    result = self_train(done, tokenizer, TASK, LABELLED, TEXTS, 2, folder=tmp_path / "part", **QUICK)
    assert result.rounds == whole.rounds


def test_a_folder_holds_nothing_but_safetensors_and_json(tmp_path, talkative):
    model, tokenizer = adapted("bert", "fishdip")
    self_train(model, tokenizer, TASK, LABELLED, TEXTS, 1, folder=tmp_path, **QUICK)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    names = ("adapter_config.json", "adapter_model.safetensors", "record.json")
    assert files == {"settings.json", *(f"round-{i}/{name}" for i in (0, 1) for name in names)}


def test_a_folder_of_another_run_is_refused_with_what_differs(tmp_path, talkative):
    def run(options=QUICK, labelled=LABELLED, texts=TEXTS, method="fishdip", **more):
        model, tokenizer = adapted("bert", method)
        return self_train(model, tokenizer, TASK, labelled, texts, 1, folder=tmp_path / "run", **{**options, **more})

    run()
    for change, message in (
        ({"steps": 9}, r"another self-training: steps was 8, is 9\. Pass the same"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"texts": TEXTS[1:]}, "unlabelled was"),
        ({"labelled": LABELLED[1:]}, "labelled was .* task was"),
        ({"method": "lora"}, "adapter was .* base weights was|adapter was"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**change)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine", encoding="utf-8")
    model, tokenizer = adapted("bert", "lora")
    with pytest.raises(ValueError, match="is not empty and holds no self-training"):
        self_train(model, tokenizer, TASK, LABELLED, TEXTS, 1, folder=other, **QUICK)
    with torch.no_grad():
        next(p for p in model.parameters() if not p.requires_grad).mul_(2)
    self_train(model, tokenizer, TASK, LABELLED, TEXTS, 1, folder=tmp_path / "third", **QUICK)
    fresh, _ = adapted("bert", "lora")
    with pytest.raises(ValueError, match="base weights was"):
        self_train(fresh, tokenizer, TASK, LABELLED, TEXTS, 1, folder=tmp_path / "third", **QUICK)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("settings.json", "[", "cannot be read"),
        ("settings.json", "[]", "is damaged"),
        ("round-1/record.json", "{", "cannot be read"),
        ("round-1/record.json", "[]", "is damaged"),
        ("round-1/record.json", {"round": 0}, "holds the record of round 0"),
        ("round-1/record.json", {"agreement": 2.0}, "agreement is 2.0"),
        ("round-1/record.json", {"weights": [-1.0]}, "weights is"),
        ("round-1/record.json", {"score": None}, "score is None"),
        ("round-1/record.json", {"more": 1}, "is no record"),
        ("round-1/adapter_model.safetensors", "x", "is not what round 1 wrote"),
        ("round-1/adapter_config.json", None, "is not what round 1 wrote"),
    ],
)
def test_a_damaged_folder_is_refused(file, content, message, tmp_path, rounds_done):
    folder, tokenizer = rounds_done(tmp_path)
    path = folder / file
    if content is None:
        path.unlink()
    elif isinstance(content, dict):
        whole = json.loads(path.read_text(encoding="utf-8"))
        whole["record"] |= content
        path.write_text(json.dumps(whole), encoding="utf-8")
    else:
        path.write_text(content, encoding="utf-8")
    model, _ = adapted("bert", "lora")
    before = values_of(model)
    with pytest.raises(ValueError, match=message):
        self_train(model, tokenizer, TASK, LABELLED, TEXTS, 2, folder=folder, **QUICK)
    assert same(values_of(model), before)


@pytest.fixture
def rounds_done(talkative):
    def run(folder):
        model, tokenizer = adapted("bert", "lora")
        self_train(model, tokenizer, TASK, LABELLED, TEXTS, 1, folder=folder / "run", **{**QUICK, "steps": 1})
        content = json.loads((folder / "run" / "settings.json").read_text(encoding="utf-8"))
        content["steps"] = QUICK["steps"]
        (folder / "run" / "settings.json").write_text(json.dumps(content), encoding="utf-8")
        return folder / "run", tokenizer

    return run


def test_a_teacher_that_finds_nothing_is_kept(monkeypatch):
    model, tokenizer = adapted("bert", "lora")
    label_texts = loop.label_texts

    def silent(*args, **options):
        return [replace(x, prediction=replace(x.prediction, spans=())) for x in label_texts(*args, **options)]

    monkeypatch.setattr(loop, "label_texts", silent)
    with pytest.warns(UserWarning, match="stopped before round 1, .* finds nothing in the 6 unlabelled texts"):
        result = self_train(model, tokenizer, TASK, LABELLED, TEXTS, 2, **QUICK)
    assert (len(result.rounds), result.best) == (1, 0)
    assert "stopped before round 1" in result.stopped
    assert result.stopped in str(result)
    assert [*model.peft_config] == ["default"]
    with pytest.warns(UserWarning, match=r"left out: low_confidence 6"):
        self_train(*adapted("bert", "lora"), TASK, LABELLED, TEXTS, 2, min_confidence=1.0, **QUICK)


def test_bad_input_is_refused_before_anything_is_trained(tmp_path):
    model, tokenizer = adapted("bert", "lora")
    before = values_of(model)

    def refused(message, *, labelled=LABELLED, texts=TEXTS, rounds=1, given=model, error=ValueError, **options):
        with pytest.raises(error, match=message):
            self_train(given, tokenizer, TASK, labelled, texts, rounds, folder=tmp_path / "run", **{**QUICK, **options})

    refused("rounds=0: give a whole number above 0", rounds=0)
    refused("rounds=1.5", rounds=1.5)
    refused("none of the 0 unlabelled texts is new", texts=[])
    refused("none of the 2 unlabelled texts is new", texts=[" ", "Rain ."])
    refused("put the one text into a list", texts="Bo left .", error=TypeError)
    refused("1 of 2 labelled examples say anything", labelled=LABELLED[:2])
    refused("0 of 0 labelled examples", labelled=[])
    refused("has no PEFT adapter", given=bert()[0])
    for change, message in (
        ({"steps": 0}, "steps=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"warmup_share": 1.1}, "warmup_share=1.1"),
        ({"held_out_share": 0}, "held_out_share=0"),
        ({"reweight": 1}, "reweight=1"),
    ):
        refused(message, **change)
    several, _ = adapted("t5", "lora")
    several.add_adapter("other", LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=["k"]))
    several.base_model.set_adapter(["default", "other"])
    refused(r"the active adapters are \['default', 'other'\]", given=several)
    frozen, _ = adapted("bert", "lora")
    frozen.peft_config["default"].inference_mode = True
    refused("is not trainable", given=frozen)
    assert same(values_of(model), before)
    assert not (tmp_path / "run").exists()


def test_an_adapter_of_another_name_beside_others(talkative):
    base, tokenizer = bert()
    model = get_peft_model(base, config_of("lora", "bert", base), adapter_name="mine")
    model.add_adapter("other", config_of("lora", "bert", base))
    with torch.no_grad():
        before = {n: p.clone() for n, p in model.named_parameters() if ".other." in n}
    self_train(model, tokenizer, TASK, LABELLED, TEXTS, 1, **QUICK)
    assert sorted(model.peft_config) == ["mine", "other"]
    assert model.active_adapters == ["mine"]
    after = {n: p for n, p in model.named_parameters() if ".other." in n}
    assert before
    assert same(before, after)


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
def test_virtual_tokens(talkative):
    from .cases import llama

    base, tokenizer = llama()
    model = get_peft_model(base, PromptTuningConfig(task_type=task_type(base), num_virtual_tokens=3))
    result = self_train(model, tokenizer, TASK, LABELLED, TEXTS, 1, **QUICK)
    assert len(result.rounds) == 2


def test_what_is_held_out_and_what_is_new():
    examples = [NerExample(("Bo", str(i)), (Span(0, 1, "PER"),) if i % 2 else ()) for i in range(16)]
    found = split(TASK, examples, ["Bo 1", "Bo 99", "Bo  99", "", ("Bo", "98")], 0.25, seed=3)
    assert len(found.train) == 12
    assert sum(bool(x.spans) for x in found.held_out) == 2
    assert sorted(int(x.tokens[1]) for x in [*found.train, *found.held_out]) == [*range(16)]
    assert [x.tokens for x in found.texts] == [("Bo", "99"), ("Bo", "98")]
    assert split(TASK, examples, ["x"], 0.25, seed=3).held_out == found.held_out
    assert split(TASK, examples, ["x"], 0.25, seed=4).held_out != found.held_out
    assert len(split(TASK, examples[:4], ["x"], 0.01, seed=0).held_out) == 1
    labelled = NerExample(("Bo", "97"), (Span(0, 1, "PER"),))
    assert split(TASK, examples, [labelled], 0.25, seed=0).texts[0].spans == ()


def test_pseudo_labels_that_are_learnt_from():
    cut = replace(FOUND[0], problems=(Problem("output_cut", ""),))
    unsure = replace(FOUND[0], confidence=0.2)
    single = replace(FOUND[0], confidence=None)
    harmless = replace(FOUND[0], problems=(Problem("cut_into_windows", ""),))
    labels = pseudo_labels(TASK, [*FOUND, cut, unsure, single, harmless], 0.4)
    assert (len(labels.kept), labels.num_answers) == (3, 3)
    assert labels.dropped == {"low_confidence": 1, "output_cut": 1}


def test_agreement_and_the_score_that_decides():
    none = replace(FOUND[0], prediction=NerExample(("Bo", "left")))
    split_up = replace(FOUND[0], prediction=NerExample(("B", "o", "left"), (Span(0, 2, "PER"),)))
    assert agreement(TASK, [FOUND[0], none, none, FOUND[0]], [FOUND[0], none, FOUND[0], split_up]) == 0.75
    assert main_score({"precision": 1.0, "entity_f1": 0.5, "relation_f1": 0.25}) == 0.375
    assert main_score({"joint_accuracy": 0.5, "slot_f1": 1.0, "slot_recall": 0.0}) == 0.75
    assert main_score({"other": 0.5}) == 0.5


def test_a_record_in_words():
    record = RoundRecord(1, {"f1": 0.5}, 0.5, 4, 3, {"low_confidence": 1}, 7, (0.0, None, 2.0), 1, 0.25)
    assert str(record) == (
        "round 1: 3 of 4 texts kept, with 7 answers; 50 % without weight, 1 steps skipped; agreement 0.250; "
        "held-out score 0.500"
    )


def test_a_share_of_the_steps_is_for_distilling():
    assert SelfTrainingOptions(steps=10, warmup_share=0.5).warmup_steps == 5
    assert SelfTrainingOptions(steps=10, warmup_share=0.0).warmup_steps == 0


def test_an_interrupt_while_a_teacher_is_replaced_leaves_the_one_before(tmp_path, monkeypatch, talkative):
    model, tokenizer = adapted("bert", "fishdip")
    load_adapter = type(model).load_adapter
    loads = iter([False, False, True])  # of the first teacher as it was saved, and before round 1

    def interrupted(self, *args, **kwargs):
        if next(loads, False):
            raise KeyboardInterrupt
        return load_adapter(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "load_adapter", interrupted)
        with pytest.raises(KeyboardInterrupt):
            self_train(model, tokenizer, TASK, LABELLED, TEXTS, 2, folder=tmp_path, **QUICK)
    assert [*model.peft_config] == model.active_adapters == ["default"]
    number = max(int(path.name[6:]) for path in tmp_path.glob("round-*"))
    fresh, _ = adapted("bert", "fishdip")
    fresh.load_adapter(str(tmp_path / f"round-{number}"), "saved")
    fresh.set_adapter("saved")
    one, other = (predict(x, tokenizer, TASK, TEXTS, progress=False) for x in (model, fresh))
    assert [x.scores for x in one] == [x.scores for x in other]
