"""Names of labels, task.json, the division of examples, the recipe, intervals, suggestions and folders."""

from __future__ import annotations

import json
import math

import pytest
import torch

from peft_fishdip.extractor.data import folds, held_out, load_examples
from peft_fishdip.extractor.evaluation import Evaluation, interval
from peft_fishdip.extractor.names import natural_names
from peft_fishdip.extractor.recipe import Recipe
from peft_fishdip.extractor.settings import Settings, base_name
from peft_fishdip.extractor.suggestion import suggest
from peft_fishdip.extractor.training import checkpoint_interval
from peft_fishdip.extractor.workplace import new_folder, training_folder
from peft_fishdip.tasks import Decoded, Document, NerExample, NerTask, RelationExample, Span

from ..support.extracting import DOCUMENTS, RELATED


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("PER", "per"),
        ("Work_For", "work for"),
        ("WorkFor", "work for"),
        ("HTMLTag", "html tag"),
        ("ORG-AFF", "org aff"),
        ("creative-work", "creative work"),
        ("Straße", "straße"),
        ("व्यक्ति", "व्यक्ति"),
        ("a|b", "a b"),
        ("[]", "label"),
    ],
)
def test_labels_become_words(label, name):
    assert natural_names([label]) == {label: name}
    NerTask(natural_names([label]))  # takes the name


def test_names_are_unique_and_given_ones_stay():
    assert natural_names(["PER", "per", "Per", "X"], {"X": "per"}) == {
        "PER": "per 2",
        "Per": "per 3",
        "X": "per",
        "per": "per 4",
    }


def test_task_follows_from_the_data(tmp_path):
    ner = Settings.of(load_examples(DOCUMENTS), "some/model", {"PER": "person"})
    assert (ner.task, ner.labels, ner.relation_labels) == ("ner", {"LOC": "loc", "PER": "person"}, {})
    joint = Settings.of(load_examples(RELATED), "some/model", {"lives_in": "home"})
    assert (joint.task, joint.relation_labels) == ("joint", {"lives_in": "home"})
    nested = [*DOCUMENTS, Document("Bank of Oslo .", (Span(0, 12, "ORG"), Span(8, 12, "LOC")))]
    assert (ner.flat, joint.flat, Settings.of(load_examples(nested), "some/model").flat) == (True, False, False)
    with pytest.raises(ValueError, match="'ORG' does not occur in the examples, whose labels are 'LOC', 'PER'"):
        Settings.of(load_examples(DOCUMENTS), "some/model", {"ORG": "firm"})
    with pytest.raises(ValueError, match="none of the 1 examples has a labelled span"):
        Settings.of([NerExample(("a",))], "some/model")
    with pytest.raises(ValueError, match="there is no example"):
        load_examples([])
    with pytest.raises(ValueError, match="record 0 is a RelationExample"):
        load_examples([RelationExample(("a", "b"), Span(0, 1), Span(1, 2))])
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        load_examples(tmp_path / "none.jsonl")


def test_settings_are_read_as_they_were_written(tmp_path):
    settings = Settings("joint", {"A": "a"}, {"R": "r"}, "x/y", "CAUSAL_LM", "bfloat16", "{source} ->", True)
    settings.write(tmp_path)
    assert Settings.read(tmp_path) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version is 2"),
        ({"task": "srl"}, "task is 'srl'; expected 'ner' or 'joint'"),
        ({"labels": {}}, "labels is {}"),
        ({"labels": ["A"]}, r"labels is \['A'\]"),
        ({"labels": {"A": "a", "B": "a"}}, "same name"),
        ({"base_model": None}, "base_model is None"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"template": "x"}, "template is 'x'"),
        ({"chat": 1}, "chat is 1"),
        ({"flat": 0}, "flat is 0"),
        ({"max_source_length": 8}, "max_source_length is 8"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
        ({"more": 1}, "unknown entries more"),
    ],
)
def test_damaged_settings_are_refused(tmp_path, change, message):
    Settings("ner", {"A": "a"}, {}, "x/y", "CAUSAL_LM").write(tmp_path)
    path = tmp_path / "task.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        Settings.read(tmp_path)


def test_folders_that_are_no_adapter_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        Settings.read(tmp_path / "none")
    with pytest.raises(ValueError, match=r"has no file task\.json"):
        Settings.read(tmp_path)
    (tmp_path / "task.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        Settings.read(tmp_path)


def test_local_folders_are_no_ids_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "model").mkdir(parents=True)
    assert base_name("own/model") == "./own/model"
    assert base_name(str(tmp_path)) == str(tmp_path)
    assert base_name("google-t5/t5-base") == "google-t5/t5-base"


def of_labels(*labels, text=""):
    words = (text or "x " * len(labels)).split() or ["x"]
    return NerExample(words, tuple(Span(i, i + 1, label) for i, label in enumerate(labels)))


def test_a_share_is_held_out_and_each_label_stays_in_training():
    examples = [of_labels("A", text=f"w{i}") for i in range(19)] + [of_labels("RARE", text="z")]
    chosen = held_out(examples, 0.2, seed=0)
    assert len(chosen) == 4
    assert chosen == held_out(examples, 0.2, seed=0) != held_out(examples, 0.2, seed=1)
    assert all(19 not in held_out(examples, 0.2, seed) for seed in range(20))


def test_equal_texts_stay_together():
    examples = [of_labels("A", text=f"w{i // 2}") for i in range(20)]
    for positions in [held_out(examples, 0.3, seed=0), *folds(examples, 5, seed=0)]:
        assert positions
        assert all(i ^ 1 in positions for i in positions)
    assert sorted(i for fold in folds(examples, 5, seed=0) for i in fold) == [*range(20)]
    with pytest.raises(ValueError, match="choose at most 10 folds"):
        folds(examples, 11, seed=0)


def test_a_label_in_one_fold_alone_is_warned_of():
    with pytest.warns(UserWarning, match="'RARE' are in one fold"):
        folds([of_labels("A", text=f"w{i}") for i in range(5)] + [of_labels("RARE", text="z")], 2, seed=0)


def test_steps_follow_from_the_number_of_examples():
    assert [Recipe().steps_for(n) for n in (1, 20, 50, 100, 1000)] == [200, 200, 500, 1000, 1000]
    assert Recipe(steps=7).steps_for(50) == 7
    assert (Recipe().interval, Recipe(update_interval=3).interval) == ("auto", 3)
    wrong_ones = ({"steps": 0}, {"learning_rate": 0}, {"density": 1.5}, {"seed": -1}, {"batch_size": None})
    for wrong in (*wrong_ones, {"optimizer": "sgd"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Recipe(**wrong)


@pytest.mark.parametrize("steps", [1, 24, 200, 333, 500, 1000])
@pytest.mark.parametrize("interval", ["auto", 70, 100])
def test_no_mask_is_due_at_a_checkpoint(steps, interval):
    masks = {0, 10, 20, 40, 80, 160, *range(260, 1001, 100)} if interval == "auto" else {*range(0, 1001, interval)}
    found = checkpoint_interval(steps, interval)
    assert max(10, steps // 10) <= found < 2 * max(10, steps // 10)
    assert not masks & {*range(found, steps, found)}


def test_checkpoints_are_made_even_where_a_mask_is_due_at_each_step():
    assert checkpoint_interval(200, 1) == 20


def test_small_models_train_a_larger_share():
    sizes = (9_500_000, 22_700_000, 66_000_000, 100_000_000, 250_000_000)
    assert [round(Recipe().density_for(n), 4) for n in sizes] == [0.05, 0.0441, 0.0152, 0.01, 0.01]
    assert [Recipe(density=0.2).density_for(n) for n in sizes] == [0.2] * 5


def test_encoders_are_trained_with_adafactor_and_others_with_adamw():
    for kind, self_training, optimizer, rate in (
        ("TOKEN_CLS", False, "sparse_adafactor", 1e-2),
        ("TOKEN_CLS", True, "adamw", 1e-3),
        ("SEQ_2_SEQ_LM", False, "adamw", 1e-3),
        ("CAUSAL_LM", False, "adamw", 1e-3),
    ):
        assert Recipe().optimizer_for(kind, self_training) == optimizer
        assert Recipe().rate_for(kind, self_training) == rate
    assert Recipe(optimizer="adamw").rate_for("TOKEN_CLS") == 1e-3
    assert Recipe(optimizer="sparse_adafactor").rate_for("CAUSAL_LM") == 1e-2
    assert Recipe(learning_rate=0.5).rate_for("TOKEN_CLS") == 0.5


def test_interval_is_that_of_a_binomial_share():
    right = torch.tensor([[2.0, 2.0]] * 80 + [[0.0, 2.0]] * 20)  # F1 0.8: each example is right or wrong
    low, high = interval(right)
    spread = 1.96 * math.sqrt(0.8 * 0.2 / 100)
    assert low == pytest.approx(0.8 - spread, abs=0.02)
    assert high == pytest.approx(0.8 + spread, abs=0.02)


def test_evaluation_counts_exact_matches():
    task = NerTask(["A", "B"])
    gold = [of_labels("A", "B"), of_labels("A", "A"), of_labels()]
    found = [of_labels("A", "A"), of_labels("A", "A"), of_labels()]
    results = [Decoded(x, (), "", (0.5,) * len(x.spans)) for x in found]
    evaluation = Evaluation.compare(task, gold, results, "test", [range(2), range(2, 3)])
    assert evaluation.scores["f1"] == 0.75
    assert evaluation.folds == {"f1": (0.75, 0.0)}
    assert evaluation.spans.labels["A"].precision == 0.75
    assert evaluation.scores["calibration_error"] == 0.25
    assert evaluation.calibration is not None
    assert "95 % interval" in str(evaluation)
    written = json.loads(json.dumps(evaluation.to_dict()))
    assert written["labels"]["B"]["num_gold"] == 1
    filled = [each for each in written["calibration_bins"] if each["count"]]
    assert filled == [{"low": 0.4, "high": 0.5, "confidence": 0.5, "accuracy": 0.75, "count": 4}]


def test_the_least_certain_texts_are_suggested():
    def of(text, confidence):
        return Decoded(NerExample(text.split(), text=text), (), "", (), confidence)

    results = [of("a b", 0.9), of("c d", 0.2), of("known  text", 0.1), of("cut", None), of("c d", 0.1), of("e", 0.5)]
    found = suggest(results, 3, known=["known text"])
    assert [(x.position, round(x.uncertainty, 6)) for x in found] == [(3, 1.0), (1, 0.8), (5, 0.5)]
    with pytest.raises(ValueError, match="above 0"):
        suggest(results, 0)


def test_folders_are_whole_or_not_there(tmp_path):
    target = tmp_path / "adapter"
    with pytest.raises(FileNotFoundError), new_folder(target) as draft:
        (draft / "adapter_config.json").touch() or (draft / "none" / "other").touch()
    assert not [*tmp_path.iterdir()]
    with new_folder(target) as draft:
        (draft / "adapter_config.json").write_text("1")
    with pytest.raises(FileExistsError, match="--overwrite"), new_folder(target):
        pass
    with pytest.raises(KeyError), new_folder(target, overwrite=True):
        raise KeyError
    assert (target / "adapter_config.json").read_text() == "1"
    with new_folder(target, overwrite=True) as draft:
        (draft / "other").write_text("2")
    assert [path.name for path in target.iterdir()] == ["other"]
    with pytest.raises(FileExistsError, match="holds no adapter"), new_folder(target, overwrite=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_unfinished_training_is_gone_on_with_by_the_same_choices_alone(tmp_path):
    output, folder = tmp_path / "adapter", tmp_path / "adapter.training"
    with pytest.raises(ValueError, match="no unfinished training"), training_folder(output, {"seed": 0}, True):
        pass
    with pytest.raises(KeyError), training_folder(output, {"seed": 0}, False):
        raise KeyError
    assert not folder.exists()  # no checkpoint
    with pytest.raises(FileExistsError), training_folder(output, {"seed": 0}, False):
        [(folder / "training" / "checkpoint-1").mkdir(parents=True) for _ in range(2)]
    with pytest.raises(FileExistsError, match="unfinished training"), training_folder(output, {"seed": 0}, False):
        pass
    with pytest.raises(ValueError, match="another seed"), training_folder(output, {"seed": 1}, True):
        pass
    with training_folder(output, {"seed": 0}, True) as found:
        assert found == folder
    assert not folder.exists()
