"""Three lines: train, load, call."""

from __future__ import annotations

import json

import pytest
import torch

import peft_fishdip.extractor.training as training
from peft_fishdip import Extractor
from peft_fishdip.tasks import Document, Span
from peft_fishdip.tasks.self_training import loop

from ..support.extracting import DOCUMENTS, NAMES, QUICK, RELATED, learnt_t5, random_bert, random_llama

TEXTS = [document.text for document in DOCUMENTS]
SPANS = [[(span.start, span.end, span.label) for span in document.spans] for document in DOCUMENTS]


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return learnt_t5(tmp_path_factory.mktemp("t5"))


def spans_of(results):
    return [[(span.start, span.end, span.label) for span in result.text_spans] for result in results]


def test_train_load_and_call(t5, tmp_path):
    folder = tmp_path / "adapter"
    trained = Extractor.train(DOCUMENTS, t5, folder, labels=NAMES, **QUICK)
    assert trained.evaluation is None  # of so few examples none is held out
    assert trained.model.base_model.last_update() is not None
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert not any("embed" in path.name or path.stat().st_size > 100_000 for path in folder.iterdir())
    loaded = Extractor.load(folder, strict=True, device="cpu")
    results = loaded(TEXTS, progress=False)
    assert spans_of(results) == SPANS
    assert all(0.5 < span.score <= 1 for result in results for span in result.text_spans)
    assert loaded(TEXTS[0]).text_spans == results[0].text_spans
    assert [result.scores for result in trained(TEXTS, progress=False)] == [result.scores for result in results]
    evaluation = loaded.evaluate(DOCUMENTS, progress=False)
    assert evaluation.scores["f1"] == 1.0
    assert evaluation.intervals["f1"] == (1.0, 1.0)
    with pytest.raises(ValueError, match="unknown label 'ORG'; the adapter knows 'LOC', 'PER'"):
        loaded.evaluate([Document("Acme .", (Span(0, 4, "ORG"),))])


def test_an_adapter_keeps_what_it_learnt_after_saving(t5, tmp_path):
    options = {**QUICK, "steps": 12, "learning_rate": 1e-3, "density": 0.2}
    trained = Extractor.train(DOCUMENTS, t5, labels=NAMES, **options)
    trained.save(tmp_path / "adapter")
    loaded = Extractor.load(tmp_path / "adapter", device="cpu")
    one, other = (x.model.base_model.delta() for x in (trained, loaded))
    assert one.keys() == other.keys()
    assert all(torch.equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True))
    assert any(values.any() for _, values in one.values())


def test_a_copy_has_the_scores_of_the_training(t5, tmp_path):
    examples = [Document(f"{DOCUMENTS[i % 4].text} {'. ' * i}".strip(), DOCUMENTS[i % 4].spans) for i in range(20)]
    Extractor.train(examples, t5, tmp_path / "adapter", labels=NAMES, **QUICK)
    loaded = Extractor.load(tmp_path / "adapter", device="cpu")
    loaded.save(tmp_path / "copy")
    assert sorted(x.name for x in (tmp_path / "copy").iterdir()) == sorted(
        x.name for x in (tmp_path / "adapter").iterdir()
    )
    written = [(tmp_path / name / "evaluation.json").read_bytes() for name in ("adapter", "copy")]
    assert written[0] == written[1]
    assert json.loads(written[0])["of"] == "held out of 20 examples"
    (tmp_path / "adapter" / "evaluation.json").unlink()
    Extractor.load(tmp_path / "adapter", device="cpu").save(tmp_path / "copy", overwrite=True)
    assert not (tmp_path / "copy" / "evaluation.json").exists()


def test_relations_are_found_where_the_data_has_some(tmp_path):
    base = learnt_t5(tmp_path / "base", RELATED)
    extractor = Extractor.train(RELATED, base, labels=NAMES, **QUICK)
    result = extractor(RELATED[0].text)
    (relation,) = result.prediction.relations
    assert relation.label == "lives_in"
    assert extractor.evaluate(RELATED, progress=False).scores["relation_f1"] == 1.0


def test_a_causal_lm_has_its_template(tmp_path):
    base = random_llama(tmp_path / "base")
    Extractor.train(DOCUMENTS, base, tmp_path / "adapter", template="Mark: {source} ->", **QUICK)
    loaded = Extractor.load(tmp_path / "adapter", device="cpu")
    assert loaded.settings.template == "Mark: {source} ->"
    assert loaded.settings.task_type == "CAUSAL_LM"
    prompts = [loaded.tokenizer(f"Mark: {text} ->")["input_ids"] for text in TEXTS]
    assert loaded.settings.max_source_length == max(32, *map(len, prompts))
    result = loaded("Bo left Rome .")
    assert result.confidence is not None
    assert 0 < result.confidence <= 1


def test_an_encoder_tags_entities_and_refuses_relations(tmp_path):
    base = random_bert(tmp_path / "base")
    options = {**QUICK, "steps": 60, "learning_rate": 5e-2, "density": 0.5}
    Extractor.train(DOCUMENTS, base, tmp_path / "adapter", **options)
    loaded = Extractor.load(tmp_path / "adapter", device="cpu")
    assert loaded.settings.task_type == "TOKEN_CLS"
    assert loaded.settings.max_source_length == 32
    assert spans_of(loaded(TEXTS, progress=False)) == SPANS
    with pytest.raises(ValueError, match="an encoder, which finds entities but no relations"):
        Extractor.train(RELATED, base, **QUICK)


def test_an_encoder_is_trained_in_units_of_its_weights(t5, tmp_path):
    """As suits SparseAdafactor, whose steps are relative to them."""
    base = random_bert(tmp_path / "base")
    for model, options, unit in ((base, {}, "rms"), (base, {"optimizer": "adamw"}, "auto"), (t5, {}, "auto")):
        trained = Extractor.train(DOCUMENTS, model, labels=NAMES, **{**QUICK, "learning_rate": None, **options})
        assert trained.model.peft_config["default"].delta_scale == unit
    with pytest.raises(ValueError, match="optimizer='sparse_adafactor': self-training on unlabelled texts has adamw"):
        Extractor.train(DOCUMENTS, base, unlabelled=["Bo left ."], optimizer="sparse_adafactor", **QUICK)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, [20, 5]),
        ({"refit": True}, [20, 5, 25]),
        ({"held_out_share": 0.0}, [25]),
        ({"num_folds": 2}, [12, 13, 13, 12, 25]),
    ],
)
def test_what_is_trained_on_and_what_is_tested(t5, monkeypatch, options, parts):
    examples = [Document(f"{DOCUMENTS[i % 4].text} {'. ' * i}".strip(), DOCUMENTS[i % 4].spans) for i in range(25)]
    seen = []
    monkeypatch.setattr(
        "peft_fishdip.extractor.extractor.train",
        lambda some, *args, **kwargs: seen.append(some) or training.train(some, *args, **kwargs),
    )
    predicted = Extractor._predict
    monkeypatch.setattr(
        Extractor, "_predict", lambda self, some, **kwargs: seen.append(some) or predicted(self, some, **kwargs)
    )
    extractor = Extractor.train(examples, t5, labels=NAMES, **{**QUICK, "steps": 1}, **options)
    assert [len(some) for some in seen] == parts
    for train, test in zip(seen[0::2], seen[1::2], strict=False):
        assert not {x.text for x in train} & {x.text for x in test}
    tested = sum(parts[1::2]) if len(parts) > 1 else 0
    assert (extractor.evaluation.num_examples if extractor.evaluation else 0) == tested
    if "num_folds" in options:
        assert extractor.evaluation is not None
        assert extractor.evaluation.folds is not None
        assert len(extractor.evaluation.folds["f1"]) == 2


@pytest.mark.parametrize("kind", ["T5", "encoder"])
def test_an_interrupted_training_goes_on(kind, t5, tmp_path, monkeypatch):
    """With AdamW, and with SparseAdafactor, which is the default of encoders."""
    base = t5 if kind == "T5" else random_bert(tmp_path / "base")
    options = {**QUICK, "steps": 24, "labels": NAMES, "learning_rate": 1e-4 if kind == "T5" else None}
    whole = Extractor.train(DOCUMENTS, base, tmp_path / "whole", **options)

    class Interrupt(training.Bar):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 15:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "Bar", Interrupt)
        with pytest.raises(KeyboardInterrupt):
            Extractor.train(DOCUMENTS, base, tmp_path / "adapter", **{**options, "progress": True})
    assert not (tmp_path / "adapter").exists()
    assert (tmp_path / "adapter.training" / "all examples" / "checkpoint-11").is_dir()
    with pytest.raises(FileExistsError, match="--resume"):
        Extractor.train(DOCUMENTS, base, tmp_path / "adapter", **options)
    with pytest.raises(ValueError, match="another data"):
        Extractor.train(DOCUMENTS[1:], base, tmp_path / "adapter", resume=True, **options)
    resumed = Extractor.train(DOCUMENTS, base, tmp_path / "adapter", resume=True, **options)
    assert not (tmp_path / "adapter.training").exists()
    one, other = (x.model.state_dict() for x in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_self_training_reads_unlabelled_texts_and_goes_on(t5, tmp_path, monkeypatch):
    options = {**QUICK, "labels": NAMES, "unlabelled": ["Ann Lee left Rome .", "Bo lives in Oslo .", "Rome ."]}
    whole = Extractor.train(DOCUMENTS, t5, tmp_path / "whole", **options)
    assert whole.self_training is not None
    assert [record.round for record in whole.self_training.rounds] == [0, 1, 2]
    content = json.loads((tmp_path / "whole" / "self_training.json").read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(whole.self_training.to_dict()))
    loaded = Extractor.load(tmp_path / "whole", strict=True, device="cpu")
    loaded.save(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "self_training.json").read_text(encoding="utf-8")) == content
    assert spans_of(loaded(TEXTS, progress=False)) == SPANS
    assert loaded.settings.max_source_length == 32
    train_student = loop.Training.train_student

    def interrupted(self, number, *args):
        if number == 2:
            raise KeyboardInterrupt
        return train_student(self, number, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "train_student", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Extractor.train(DOCUMENTS, t5, tmp_path / "adapter", **options)
    assert (tmp_path / "adapter.training" / "all examples" / "round-1").is_dir()
    for change in ({"rounds": 1}, {"unlabelled": None}, {"unlabelled": ["Rome ."]}):
        with pytest.raises(ValueError, match="another unlabelled"):
            Extractor.train(DOCUMENTS, t5, tmp_path / "adapter", resume=True, **{**options, **change})
    resumed = Extractor.train(DOCUMENTS, t5, tmp_path / "adapter", resume=True, **options)
    assert resumed.self_training.rounds == whole.self_training.rounds
    one, other = whole.model.base_model.delta(), resumed.model.base_model.delta()
    assert all(torch.equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True))


def test_unlabelled_texts_that_are_of_no_use_are_refused(t5, tmp_path):
    options = {**QUICK, "labels": NAMES, "output": tmp_path / "adapter"}
    for change, error, message in (
        ({"unlabelled": []}, ValueError, "none of the 0 unlabelled texts is new"),
        ({"unlabelled": TEXTS}, ValueError, "none of the 4 unlabelled texts is new"),
        ({"unlabelled": "Rome ."}, TypeError, "put the one text into a list"),
        ({"unlabelled": ["Rome ."], "rounds": 0}, ValueError, "rounds=0"),
    ):
        with pytest.raises(error, match=message):
            Extractor.train(DOCUMENTS, t5, **{**options, **change})
    assert not [*tmp_path.iterdir()]


def test_what_cannot_be_done_is_refused_before_anything_is_written(t5, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refusals = [
        ({"model": "./none"}, "is a folder that is not there"),
        ({"model": "none/such"}, "cannot be loaded"),
        ({"device": "tpu"}, "choose 'cpu' or 'cuda'"),
        ({"template": "no place"}, "put {source}"),
        ({"num_folds": 1}, "2 or more"),
        ({"held_out_share": 1.0}, "below 1"),
        ({"steps": 0}, "above 0"),
    ]
    for change, message in refusals:
        with pytest.raises(ValueError, match=message):
            Extractor.train(DOCUMENTS, **{"model": t5, "output": tmp_path / "adapter", **QUICK, **change})
    with pytest.raises(ValueError, match="output="):
        Extractor.train(DOCUMENTS, t5, resume=True, **QUICK)
    assert not [*tmp_path.iterdir()]


def test_texts_are_read_in_parts_as_long_as_the_examples(t5):
    extractor = Extractor.train(DOCUMENTS, t5, labels=NAMES, **QUICK)
    assert extractor.settings.max_source_length == 32
    page = " ".join(TEXTS * 12)
    result = extractor(page, progress=False)
    assert [problem.kind for problem in result.problems] == ["cut_into_windows"]
    assert result.prediction.text == page
    long = Document(" ".join(["Rain"] * 40 + ["Bo", "."]), (Span(200, 202, "PER"),))
    assert Extractor.train([*DOCUMENTS, long], t5, labels=NAMES, **QUICK).settings.max_source_length == 43


def test_another_base_model_is_refused(t5, tmp_path):
    Extractor.train(DOCUMENTS, t5, tmp_path / "adapter", labels=NAMES, **QUICK)
    with pytest.raises(ValueError, match="for a model of the type SEQ_2_SEQ_LM"):
        Extractor.load(tmp_path / "adapter", model=random_bert(tmp_path / "bert"), device="cpu")
