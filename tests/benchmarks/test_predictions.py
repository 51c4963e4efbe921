"""The few predictions that a run keeps, and the sentences that `make bench` learns from."""

import re
from pathlib import Path

import pytest

from benchmarks import everyday
from benchmarks.__main__ import parse
from benchmarks.data_sets import load
from benchmarks.experiment import load_experiments
from benchmarks.in_context import InContextTask
from benchmarks.predictions import first_predictions
from benchmarks.problems import Protocol, problem
from peft_fishdip.tasks import Decoded, NerExample, NerTask, RelationExample, RelationTask, Span

from . import tiny

ROOT = Path(__file__).parents[2]
TASK = NerTask(everyday.LABELS)
ANN = NerExample(("Ann", "left", "Oslo"), (Span(0, 1, "Peop"), Span(2, 3, "Loc")))


def test_predictions_are_those_of_the_first_examples_as_labelled_text():
    wrong = NerExample(ANN.tokens, (Span(2, 3, "Org"),))
    found = first_predictions(TASK, [ANN] * 9, [Decoded(wrong, (), "[ what the model wrote")] * 9)
    assert len(found) == 5
    assert found[0] == {
        "source": "Ann left Oslo",
        "gold": "[ Ann | person ] left [ Oslo | location ]",
        "predicted": "Ann left [ Oslo | organization ]",
    }


def test_sources_are_shown_without_demonstrations():
    task = InContextTask(TASK, [ANN], tiny.tokenizer(), max_length=200)
    (found,) = first_predictions(task, [ANN], [Decoded(ANN, (), "")])
    assert found["source"] == "Ann left Oslo"


@pytest.mark.parametrize(
    ("predicted", "told"),
    [
        ("died", "relationship between [ Ann ] and [ Oslo ] = place of death"),
        (
            Decoded(RelationExample(ANN.tokens, Span(0, 1, ""), Span(2, 3, "")), (), "none"),
            "(no label that the task knows)",
        ),
    ],
)
def test_relations_are_shown_by_name(predicted, told):
    example = RelationExample(ANN.tokens, Span(0, 1, ""), Span(2, 3, ""), "born")
    task = RelationTask({"born": "place of birth", "died": "place of death"})
    (found,) = first_predictions(task, [example], [predicted])
    assert found["gold"] == "relationship between [ Ann ] and [ Oslo ] = place of birth"
    assert found["predicted"] == told


def test_everyday_sentences_are_the_same_for_a_seed_and_their_test_names_are_new():
    loaded = load("everyday", None)
    assert list(loaded.train[:20]) == everyday.sentences(20, seed=-1)
    assert everyday.sentences(20, seed=3) != everyday.sentences(20, seed=4)

    def words(examples):
        return {word for x in examples for span in x.spans for word in x.tokens[span.start : span.end]}

    common = words(loaded.train) & words(loaded.test)
    assert common <= {*everyday.COMPANY_KINDS}  # "Bank" may be the same, "Harbour" is not
    assert len({example.tokens for example in loaded.train}) > 0.9 * len(loaded.train)


def test_everyday_sentences_have_their_names_labelled_and_read_like_text():
    patterns = " ".join((*everyday.OPENINGS, *everyday.CLAUSES, *everyday.ENDINGS, ", ."))
    plain = {word.lower() for word in patterns.split() if "{" not in word}
    for example in everyday.sentences(300, seed=0):
        labelled = {i for span in example.spans for i in range(span.start, span.end)}
        assert {i for i, token in enumerate(example.tokens) if token.lower() not in plain} == labelled
        assert example.tokens[0][0].isupper()
        assert example.tokens[-1] == "."
        assert TASK.decode(example, TASK.encode(example).target).prediction == example


def test_make_bench_compares_the_default_with_the_baselines_over_three_seeds():
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    command = re.search(r"-m benchmarks (compare .*)", text)[1]
    options = parse(command.split())
    experiments = load_experiments(
        options.methods, {}, [ROOT / "benchmarks" / "experiments", ROOT / options.experiments]
    )
    by_family = {experiment.method: experiment for experiment in experiments}
    assert by_family.keys() == {"fishdip", "lora", "full"}
    assert by_family["fishdip"].adapter_config().density == 0.01
    assert by_family["fishdip"].title == parse(["compare"]).methods[0] == "fishdip/default"
    assert len(options.seeds) == 3
    train = problem(options.tasks[0], None, Protocol(fraction=options.fractions[0]), seed=0).train
    assert 40 <= len(train) <= 60  # a few dozen
