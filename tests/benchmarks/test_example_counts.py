"""What test examples add to the scores: summed, it gives the scores of the tasks."""

import random

import numpy as np
import pytest
import torch

from benchmarks.example_counts import example_counts, ratio
from benchmarks.experiment import load_experiments
from benchmarks.in_context import InContextTask
from benchmarks.problems import METRICS, Protocol, problem
from benchmarks.training import run
from peft_fishdip.tasks import (
    Decoded,
    DstExample,
    DstTask,
    JointExample,
    JointTask,
    NerExample,
    NerTask,
    Relation,
    SlotValue,
    Span,
    SrlExample,
    SrlTask,
    Turn,
)

from . import tiny

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
TOKENS = tuple("abcdefgh")


def spans(chance, labels):
    places = [(start, start + chance.randint(1, 2)) for start in chance.sample(range(0, 7, 2), chance.randint(0, 3))]
    return tuple(Span(start, end, chance.choice(labels)) for start, end in places)


def ner(chance):
    return NerExample(TOKENS, spans(chance, ["x", "y"]))


def joint(chance):
    found = spans(chance, ["x", "y"])
    pairs = [(a, b) for a in found for b in found if a != b]
    relations = [Relation(a, b, "r") for a, b in chance.sample(pairs, min(len(pairs), chance.randint(0, 2)))]
    return JointExample(TOKENS, found, tuple(relations))


def srl(chance):
    return SrlExample(TOKENS, Span(7, 8), spans(chance, ["A0", "A1", "C-A0", "V"]))


def dst(chance):
    values = [SlotValue("hotel", slot, chance.choice(["Ａ", "A", "b  c"])) for slot in ("area", "day")]
    return DstExample((Turn("user", "hello"),), tuple(chance.sample(values, chance.randint(0, 2))))


TASKS = {
    "ner": (NerTask(["x", "y"]), ner),
    "joint": (JointTask(["x", "y"], ["r"]), joint),
    "srl": (SrlTask(["A0", "A1", "C-A0", "V"]), srl),
    "dst": (DstTask({"hotel": ["area", "day"]}), dst),
}


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("shown", [False, True], ids=["plain", "in context"])
def test_summed_counts_are_the_scores_of_the_task(kind, shown):
    task, make = TASKS[kind]
    if shown:
        task = InContextTask(task, [], tiny.tokenizer(), max_length=100, k=0)
    seen = {metric: set() for metric in METRICS[kind]}
    for seed in range(20):
        chance = random.Random(seed)
        gold = [make(chance) for _ in range(12)]
        predicted = [Decoded(g if chance.random() < 0.3 else make(chance), (), "") for g in gold]
        scores = task.score(gold, predicted)
        counts = example_counts(task, gold, predicted, scores)
        assert counts.keys() == {*METRICS[kind]}
        for metric, own in counts.items():
            parts = ratio(own)
            assert parts.shape == (12, 2)
            numerator, denominator = parts.sum(axis=0)
            assert numerator / denominator == pytest.approx(scores[metric])
            seen[metric].add(scores[metric])
    assert all(len(values) > 4 for values in seen.values())


def test_counts_are_in_the_order_of_the_examples():
    task = TASKS["ner"][0]
    one, other, wrong = Span(0, 1, "x"), Span(2, 3, "y"), Span(2, 3, "x")
    gold = [NerExample(TOKENS, spans) for spans in ((one, other), (), (one,))]
    found = [NerExample(TOKENS, spans) for spans in ((one, wrong), (wrong,), ())]
    counts = example_counts(task, gold, [Decoded(x, (), "") for x in found], ("f1",))
    assert counts == {"f1": {"correct": "1 0 0", "predicted": "2 1 0", "gold": "2 0 1"}}
    np.testing.assert_array_equal(ratio(counts["f1"]), [[2, 4], [0, 1], [0, 1]])


def test_counts_of_accuracies_are_answers():
    np.testing.assert_array_equal(ratio({"correct": "1 0 1"}), [[1, 1], [0, 1], [1, 1]])


@pytest.mark.parametrize("name", ["conll04", "woz2", "fewrel"])
def test_a_run_has_counts_of_all_its_metrics(base_model, data_folder, name):
    part = problem(name, data_folder, Protocol(fraction=0.5, num_ways=2, num_episodes=2, max_train=6), 0)
    (experiment,) = load_experiments(["full/adamw"], {"steps": 2, "meta_steps": 2, "batch_size": 2, "max_length": 48})
    outcome = run(experiment, part, base_model, 0, torch.device("cpu"))
    assert outcome.counts.keys() == {*METRICS[part.kind]}
    for metric, groups in outcome.counts.items():
        assert len(groups) == max(1, len(part.episodes))
        sums = [ratio(own).sum(axis=0) for own in groups]
        shares = [numerator / denominator if denominator else 0.0 for numerator, denominator in sums]
        assert outcome.scores[metric] == pytest.approx(np.mean(shares))
        sizes = [len(episode.query) for episode in part.episodes] or [len(part.test)]
        assert [len(ratio(own)) for own in groups] == sizes
