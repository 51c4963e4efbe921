"""Wrong arguments of the tasks' functions are answered with the argument, its value and the remedy."""

import pytest

from peft_fishdip import tasks
from peft_fishdip.tasks import (
    NerExample,
    NerTask,
    Span,
    TaskCollator,
    calibration_error,
    evaluate,
    fraction_indices,
    generate,
    meta_split,
    micro_f1,
    predict,
    sample_episode,
    score_report,
    spans_to_tags,
    tags_to_spans,
    to_features,
    write_json_lines,
)
from peft_fishdip.tasks.prompts import plain_prompt
from peft_fishdip.tasks.self_training.data import split
from peft_fishdip.tasks.tagging import is_tag

from .tiny import tiny_model, tiny_tokenizer

TASK = NerTask({"PER": "person"})
FOUND = NerExample(("Bo",), (Span(0, 1, "PER"),))
TOKENIZER = tiny_tokenizer(["Bo"])
EPISODE = {"num_ways": 1, "num_shots": 1, "seed": 0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tags_to_spans(5), r"tags=5: give a list of tags"),
        (lambda: tags_to_spans("B-PER O"), r"tags='B-PER O': give .* `split` a text at its spaces"),
        (lambda: spans_to_tags(None, 3), r"spans=None: give a list of Span"),
        (lambda: spans_to_tags([(0, 1, "PER")], 3), r"spans\[0\]=\(0, 1, 'PER'\): must be a Span"),
        (lambda: spans_to_tags([Span(0, 1, "PER")], "3"), r"length='3': give the number of tokens"),
        (lambda: micro_f1(5, [set()]), r"gold=5: give a list, with one entry for each example"),
        (lambda: micro_f1([set()], "ab"), r"predicted='ab': give a list"),
        (lambda: TASK.score("ab", "ab"), r"gold='ab': give a list"),
        (lambda: fraction_indices("many", 0.1, 0), r"size='many': give the number of examples"),
        (lambda: fraction_indices(5, "x", 0), r"fraction='x': give a share above 0"),
        (lambda: sample_episode(5, **EPISODE), r"examples=5: give a list of RelationExample"),
        (lambda: sample_episode([], **{**EPISODE, "num_ways": "a"}), r"num_ways='a': must be a whole number"),
        (lambda: meta_split(5, num_test_relations=1, seed=0), r"examples=5: give a list of RelationExample"),
        (lambda: meta_split([], num_test_relations="x", seed=0), r"num_test_relations='x': leave at least one"),
        (lambda: predict(5, 5, 5, ["a"]), r"task=5: give a task, such as NerTask"),
        (lambda: predict(5, 5, NerTask, ["a"]), r"task=<class .*>: give a task"),
        (lambda: predict(5, 5, TASK, ["a"]), r"tokenizer=5: give the tokenizer of the model"),
        (lambda: generate(5, 5, {"text": "Bo"}), r"sources=.*: this is a dict; give .* pass row\['text'\]"),
        (
            lambda: predict(5, TOKENIZER, TASK, {"id": 1, "text": "Bo"}),
            r"texts=\{'id': 1, 'text': 'Bo'\}: .* row\['text'",
        ),
        (lambda: TASK.as_example({"text": "Bo"}), r"got dict; of a row of a data set, pass row\['text'\]"),
        (lambda: split(TASK, [], {"text": "Bo"}, 0.5, 0), r"unlabelled=\{'text': 'Bo'\}: this is a dict; give a list"),
        (lambda: TASK.score({0: FOUND}, [FOUND]), r"gold=\{0: NerExample\(.*: give a list"),
        (lambda: evaluate(5, 5, 5, []), r"task=5: give a task"),
        (lambda: evaluate(5, 5, TASK, 5), r"examples=5: give a list of NerExample"),
        (lambda: to_features(5, 5, []), r"task=5: give a task"),
        (lambda: to_features(TASK, 5, [NerExample(["a"])]), r"tokenizer=5: give the tokenizer"),
        (lambda: TaskCollator(5, 5), r"tokenizer=5: give the tokenizer"),
        (lambda: score_report([FOUND], [FOUND], without="LOC"), r"without='LOC': give a list of labels"),
        (lambda: calibration_error([0.5], [True], num_bins=0), r"num_bins=0: must be at least 1"),
        (lambda: calibration_error([0.5], [True], num_bins="9"), r"num_bins='9': give a whole number, at least 1"),
        (lambda: write_json_lines("x", FOUND), r"results=NerExample\(.*: give a list of predictions"),
        (lambda: is_tag("B-PER", "foo"), r"scheme='foo': choose one of"),
        (lambda: plain_prompt("x", 5), r"template=5: give a text, and put \{source\}"),
    ],
)
def test_the_argument_its_value_and_the_remedy_are_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


READERS = sorted({name for name in tasks.__all__ if name.startswith("read")} - {"read_spacy"})  # needs spaCy


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("path", [5, None, ["train.txt"]], ids=str)
def test_a_reader_says_what_it_was_given_in_place_of_a_path(name, path):
    more = [path] if name == "read_conll2005" else []
    with pytest.raises(TypeError) as told:
        getattr(tasks, name)(path, *more)
    assert f"path={path!r}" in str(told.value)


@pytest.mark.parametrize("value", ["8", None, 1.5, True])
@pytest.mark.parametrize("name", ["batch_size", "num_beams", "max_source_length", "max_new_tokens"])
def test_sizes_are_whole_numbers(name, value):
    """For every kind of model, before it is asked for anything."""
    tokenizer = tiny_tokenizer(["Bo"])
    model = tiny_model(len(tokenizer))
    with pytest.raises(TypeError, match=f"{name}={value!r}: give a whole number, at least 1"):
        generate(model, tokenizer, ["Bo"], **{name: value})
    if not (name == "max_new_tokens" and value is None):
        with pytest.raises(TypeError, match=f"{name}={value!r}: give a whole number, at least 1"):
            predict(model, tokenizer, TASK, ["Bo"], **{name: value})
    with pytest.raises(ValueError, match=f"{name}=0: must be at least 1"):
        predict(model, tokenizer, TASK, ["Bo"], **{name: 0})


@pytest.mark.parametrize(
    "call",
    [
        lambda model: predict(model, TOKENIZER, TASK, ["Bo", "Bo \ud83d b"]),
        lambda model: predict(model, TOKENIZER, TASK, ["Bo", ["Bo", "\ud83d", "b"]]),
        lambda model: predict(model, TOKENIZER, TASK, ["Bo", NerExample(["Bo", "\ud83d"])]),
        lambda model: generate(model, TOKENIZER, ["Bo", "Bo \ud83d b"]),
        lambda model: to_features(TASK, TOKENIZER, [FOUND, NerExample(["Bo", "\ud83d"])], model=model),
        lambda model: split(TASK, [FOUND] * 3, ["Bo", "Bo \ud83d b"], 0.5, 0),
    ],
)
def test_half_a_character_is_named(call):
    with pytest.raises(ValueError, match=r"\[1\]: .* has the single surrogate '\\ud83d' at 3, half of a UTF-16"):
        call(tiny_model(len(TOKENIZER)))


def test_examples_may_be_a_generator():
    tokenizer = tiny_tokenizer(["Bo [ ] | person"])
    model = tiny_model(len(tokenizer))
    expected = to_features(TASK, tokenizer, [FOUND, FOUND], model=model)
    assert to_features(TASK, tokenizer, (FOUND for _ in range(2)), model=model) == expected
    options = {"max_new_tokens": 4, "progress": False}
    assert predict(model, tokenizer, TASK, (x for x in ["Bo"]), **options) == predict(
        model, tokenizer, TASK, ["Bo"], **options
    )


def test_a_long_value_is_cut():
    with pytest.raises(TypeError) as told:
        TASK.score("x" * 1000, [])
    assert len(str(told.value)) < 200
