import json

import pytest

from benchmarks import toy
from benchmarks.data import load_data
from benchmarks.settings import SettingsError
from peft_fishdip.tasks import NerTask


def test_generated_sentences_are_the_same_for_the_same_seed_and_differ_for_others():
    assert toy.sentences(20, seed=3) == toy.sentences(20, seed=3)
    assert toy.sentences(20, seed=3) != toy.sentences(20, seed=4)


def test_every_name_of_a_generated_sentence_is_labelled_and_nothing_else():
    plain_words = {word for template in toy.TEMPLATES for word in template.split() if "{" not in word}
    for example in toy.sentences(200, seed=0):
        labelled = {i for span in example.spans for i in range(span.start, span.end)}
        assert {i for i, token in enumerate(example.tokens) if token not in plain_words} == labelled


def test_most_names_of_the_test_sentences_are_new():
    def names(seed, count):
        return {span.text(example.tokens) for example in toy.sentences(count, seed=seed) for span in example.spans}

    train, test = names(1000, 48), names(-2, 60)
    assert len(test - train) > 0.9 * len(test)


def test_generated_sentences_survive_the_text_format():
    task = NerTask(toy.LABELS)
    for example in toy.sentences(50, seed=5):
        assert task.decode(example, task.encode(example).target).prediction == example


@pytest.fixture
def conll04(tmp_path):
    """Ten invented sentences in the format of CoNLL04."""
    sentence = {
        "tokens": ["Mira", "Holt", "left", "Oslo"],
        "tags": ["B-Peop", "L-Peop", "O", "U-Loc"],
        "relations": [{"head": 0, "tail": 1, "type": "Live_In"}],
    }
    for split, count in (("train", 10), ("test", 4)):
        content = [{**sentence, "orig_id": i} for i in range(count)]
        (tmp_path / f"conll04_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def test_a_fraction_of_conll04_is_labelled_and_all_of_it_is_unlabelled_text(conll04):
    data = load_data(conll04, 0.2, seed=0, max_test=3)
    assert (len(data.train), len(data.test), len(data.unlabelled)) == (2, 3, 10)
    assert data.task.encode(data.train[0]).target == "[ Mira Holt | person ] left [ Oslo | location ]"


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, 0.001])
def test_a_fraction_that_leaves_nothing_is_refused(conll04, fraction):
    with pytest.raises(SettingsError, match=str(fraction)):
        load_data(conll04, fraction, seed=0, max_test=None)


def test_missing_and_malformed_files_are_named(tmp_path):
    with pytest.raises(SettingsError, match="conll04_train"):
        load_data(tmp_path, 0.1, seed=0, max_test=None)
    (tmp_path / "conll04_train.json").write_text("{", encoding="utf-8")
    with pytest.raises(SettingsError, match="conll04_train"):
        load_data(tmp_path, 0.1, seed=0, max_test=None)
