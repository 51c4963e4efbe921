"""Scores of answers, and how far they are from the share of right ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peft_fishdip.tasks import (
    Calibration,
    Decoded,
    DstExample,
    DstTask,
    NerExample,
    NerTask,
    RelationExample,
    RelationTask,
    SequenceClassificationTask,
    SlotValue,
    Span,
    TokenClassificationTask,
    Turn,
    calibration_error,
    calibration_of,
    evaluate,
    load_model,
    predict,
)

from .test_families import bert, saved
from .test_generation import EXAMPLES, TASK
from .tiny import bpe_tokenizer, tiny_model, tiny_tokenizer


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 15))
def test_calibration_error_is_that_of_its_definition(drawn, num_bins):
    scores, right = (np.array(column) for column in zip(*drawn, strict=True))
    edges = np.arange(num_bins + 1) / num_bins
    expected = 0.0
    for number in range(num_bins):
        low, high = edges[number], edges[number + 1]
        # as the function rounds: a score is in the first bin whose number is at least score * num_bins
        inside = (np.ceil(scores * num_bins) == number + 1) | ((number == 0) & (scores == 0))
        assert np.all((scores[inside] >= low - 1e-12) & (scores[inside] <= high + 1e-12))
        if inside.any():
            expected += inside.mean() * abs(scores[inside].mean() - right[inside].mean())
    assert calibration_error(scores.tolist(), right.tolist(), num_bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_by_example():
    assert calibration_error([0.95, 0.95, 0.15, 0.15], [True, False, False, False]) == pytest.approx(
        (2 * 0.45 + 2 * 0.15) / 4
    )
    assert calibration_error([], []) == 0
    assert calibration_error([1.0, 0.0], [True, False]) == 0
    with pytest.raises(ValueError, match=r"the score 1\.5 is no probability"):
        calibration_error([1.5], [True])
    with pytest.raises(ValueError, match="1 gold examples but 2 predictions"):
        calibration_error([0.5, 0.5], [True])


def test_bins_say_what_a_reliability_plot_shows():
    scores, right = [0.0, 0.05, 0.1, 0.11, 0.95, 1.0, 1.0], [False, True, False, True, True, True, False]
    bins = Calibration.of(scores, right).bins
    assert [(each.low, each.high) for each in bins] == [(i / 10, (i + 1) / 10) for i in range(10)]
    assert [each.count for each in bins] == [3, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert [bins[i].confidence for i in (0, 1, 2, 9)] == pytest.approx([0.05, 0.11, 0.0, 2.95 / 3])
    assert [bins[i].accuracy for i in (0, 1, 2, 9)] == pytest.approx([1 / 3, 1.0, 0.0, 2 / 3])
    assert Calibration.of(scores, right).count == 7
    assert [each.count for each in Calibration.of([], [], 2).bins] == [0, 0]


def test_answers_without_scores_do_not_count():
    task = NerTask(["X"])
    gold = [NerExample(("a", "b"), (Span(0, 1, "X"),))] * 2
    cut = Decoded(gold[0], (), "")
    half = Decoded(NerExample(("a", "b"), (Span(0, 1, "X"), Span(1, 2, "X"))), (), "", (0.75, 0.25))
    found = calibration_of(task, gold, [cut, half])
    assert found is not None
    assert found.error == pytest.approx((0.25 + 0.25) / 2)
    assert calibration_of(task, gold, [cut, cut]) is None


RELATED = RelationExample(("Ann", "left", "Oslo"), Span(0, 1), Span(2, 3), "P")


def test_evaluate_tells_the_calibration_error():
    task = RelationTask({"P": "person", "L": "location"})
    tokenizer = tiny_tokenizer([task.encode(RELATED).source, task.encode(RELATED).target, "person location"])
    model = tiny_model(len(tokenizer))
    (decoded,) = predict(model, tokenizer, task, [RELATED], max_new_tokens=40)
    found = evaluate(model, tokenizer, task, [RELATED], max_new_tokens=40)
    right = decoded.prediction.label == RELATED.label
    assert found == {"accuracy": float(right), "calibration_error": pytest.approx(abs(decoded.scores[0] - right))}


def test_scores_of_tags_are_products_over_words():
    task = NerTask(["X"])
    tokenizer = bpe_tokenizer(["Ann Lee left"])
    classes = TokenClassificationTask(task)
    example = NerExample(("Ann", "Lee", "left", "Ann"))
    reading = classes.read(tokenizer, example, 60)
    torch.manual_seed(0)
    logits = torch.randn(len(reading.ids), 3)
    for first, tag in zip(reading.firsts, [1, 2, 0, 1], strict=True):
        logits[first, tag] += 4
    decoded = classes.decode(example, reading, logits)
    assert decoded.prediction.spans == (Span(0, 2, "X"), Span(3, 4, "X"))
    chances = logits.softmax(-1)
    first, second, _, last = reading.firsts
    assert decoded.scores == pytest.approx([(chances[first, 1] * chances[second, 2]).item(), chances[last, 1].item()])


def test_of_several_values_the_last_one_has_the_score():
    task = DstTask({"hotel": ["area"]})
    tokenizer = bpe_tokenizer(["north or south"])
    classes = TokenClassificationTask(task)
    example = DstExample((Turn("user", "north or south"),))
    reading = classes.read(tokenizer, example, 60)
    logits = torch.zeros(len(reading.ids), 3)
    logits[:, 0] = 3.0
    logits[reading.firsts[1], 1] = 5.0
    logits[reading.firsts[3], 1] = 4.0
    decoded = classes.decode(example, reading, logits)
    assert decoded.prediction.state == (SlotValue("hotel", "area", "south"),)
    assert decoded.scores == pytest.approx([logits[reading.firsts[3]].softmax(0)[1].item()])


def test_the_score_of_a_class_is_its_probability():
    task = RelationTask(["a", "b", "c"])
    decoded = SequenceClassificationTask(task).decode(RELATED, torch.tensor([0.0, 2.0, 1.0]))
    assert decoded.prediction.label == "b"
    assert decoded.scores == pytest.approx([torch.tensor([0.0, 2.0, 1.0]).softmax(0)[1].item()])


def test_encoders_have_scores_too(tmp_path):
    tokenizer = bpe_tokenizer(["Ann left Oslo"])
    model, tokenizer = load_model(saved(tmp_path, bert(tokenizer), tokenizer), TASK)
    found = evaluate(model, tokenizer, TASK, EXAMPLES, max_source_length=60)
    assert 0 <= found["calibration_error"] <= 1
