"""Wrong arguments of an Extractor are answered with the argument, its value and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from peft_fishdip import Extractor
from peft_fishdip.extractor.data import load_examples
from peft_fishdip.extractor.settings import Settings, base_name
from peft_fishdip.tasks import Document, NerExample, Span

from ..support.extracting import DOCUMENTS, QUICK, random_bert

ONE = DOCUMENTS[0]
OF_BERT = {**QUICK, "learning_rate": None}


def refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 5}, r"model=5: give the id of a model on the Hub, or its folder, as a text or a pathlib.Path"),
        ({"output": 5}, r"output=5: give the name of a folder, as a text"),
        ({"labels": ["PER"]}, r"labels=\['PER'\]: give a dict from labels to words, such as \{'PER': 'person'\}"),
        ({"labels": {"PER": 3}}, r"labels=\{'PER': 3\}: 3 cannot stand for 'PER'; give a dict"),
        ({"labels": {"PER": ""}}, r"'' cannot stand for 'PER'"),
        ({"num_folds": "3"}, r"num_folds='3': give 2 or more"),
        ({"num_folds": 2.0}, r"num_folds=2.0: give 2 or more"),
        ({"held_out_share": "0.2"}, r"held_out_share='0.2': give a share from 0 to below 1"),
        ({"refit": "no"}, r"refit='no': give True or False"),
        ({"chat": 1}, r"chat=1: give True or False"),
        ({"resume": None}, r"resume=None: give True or False"),
        ({"overwrite": "yes"}, r"overwrite='yes': give True or False"),
        ({"progress": "no"}, r"progress='no': give True or False"),
        ({"template": lambda source: source}, r"template=<function .*: give a text, and put \{source\}"),
        ({"unlabelled": 5}, r"unlabelled=5: give a list of texts"),
        ({"unlabelled": [ONE]}, r"unlabelled\[0\]=Document\(.*: must be a str"),
        ({"rounds": "2"}, r"rounds='2': give a whole number above 0"),
        ({"device": 1.5}, r"device=1.5: choose 'cpu' or 'cuda'"),
        ({"seed": "1"}, r"seed='1': give a whole number"),
    ],
)
def test_of_train(arguments, message):
    refused(lambda: Extractor.train(DOCUMENTS, **{"model": "none/such", **QUICK, **arguments}), message)


@pytest.mark.parametrize(
    "documents",
    [
        ONE,
        NerExample(("Bo",), (Span(0, 1, "PER"),)),
        5,
        {"text": "Bo"},
        DatasetDict(train=Dataset.from_dict({"a": [1]})),
    ],
    ids=lambda documents: type(documents).__name__,
)
def test_of_documents(documents):
    message = r"documents=.*: give the name of a file, or a list of documents or records .*, even if it is a single one"
    refused(lambda: Extractor.train(documents, "none/such", **QUICK), message)
    refused(lambda: load_examples(documents), message)


def test_of_load_call_and_save(tmp_path):
    extractor = Extractor.train(DOCUMENTS, random_bert(tmp_path / "base"), **OF_BERT)
    extractor.save(tmp_path / "adapter")
    for call, message in (
        (lambda: Extractor.load(5), r"folder=5: give the folder of an adapter, as a text or a pathlib.Path"),
        (lambda: Extractor.load(tmp_path / "adapter", model=5), r"model=5: give the id of a model on the Hub"),
        (lambda: Extractor.load(tmp_path / "adapter", strict="no"), r"strict='no': give True or False"),
        (lambda: Extractor.load(tmp_path / "adapter", device=[]), r"device=\[\]: choose 'cpu' or 'cuda'"),
        (lambda: extractor(5), r"texts=5: give a list of texts"),
        (lambda: extractor(ONE), r"texts=Document\(.*: give a list of texts"),
        (lambda: extractor({"text": "Bo"}), r"texts=\{'text': 'Bo'\}: this is a dict; give .* pass row\['text'\]"),
        (lambda: extractor("Bo .", windows="no"), r"windows='no': give True or False"),
        (lambda: extractor("Bo .", truncation_side="top"), r"truncation_side='top': choose 'left' or 'right'"),
        (lambda: extractor("Bo .", batch_size="8"), r"batch_size='8': give a whole number, at least 1"),
        (lambda: extractor.evaluate(ONE), r"documents=Document\(.*: give the name of a file, or a list"),
        (lambda: extractor.evaluate(DOCUMENTS, batch_size=1.5), r"batch_size=1.5: give a whole number"),
        (lambda: extractor.save(5), r"folder=5: give the name of a folder"),
        (lambda: extractor.save(tmp_path / "adapter", overwrite="no"), r"overwrite='no': give True or False"),
    ):
        refused(call, message)


def test_a_base_model_may_be_a_path(tmp_path, monkeypatch):
    base = Path(random_bert(tmp_path / "base"))
    trained = Extractor.train(DOCUMENTS, base, tmp_path / "adapter", **OF_BERT)
    assert trained.settings.base_model == str(base)
    monkeypatch.chdir(tmp_path)
    base.rename(tmp_path / "moved")
    loaded = Extractor.load("adapter", model=Path("moved"), strict=True, device="cpu")
    assert loaded.settings.base_model == "./moved"
    assert loaded(ONE.text).text_spans == trained(ONE.text).text_spans
    assert base_name(Path("none")) == "none"


@pytest.mark.parametrize("label", ["a|b", "PER,B-LOC"])
def test_an_encoder_cannot_have_some_labels(label, tmp_path):
    """The label is to blame, not the model."""
    documents = [Document("Bo left Rome .", (Span(0, 2, label),))]
    with pytest.raises(ValueError, match=r"^the label .* cannot stand in a tag, since it reads as several; rename it"):
        Extractor.train(documents, random_bert(tmp_path / "base"), **OF_BERT)


def test_settings_hold_texts_alone():
    for template in (5, lambda source: source):
        refused(lambda t=template: Settings.of(load_examples(DOCUMENTS), "x", template=t), r"template=.*give a text")
