"""Entities that do not nest, and the confidence of whole texts."""

from __future__ import annotations

import warnings
from itertools import pairwise

from peft_fishdip.tasks import NerTask, predict

from .test_constraint import wanting
from .test_generation import EXAMPLES, TASK
from .tiny import fit, tiny_model, tiny_tokenizer

LABELS = {"PER": "person", "LOC": "location"}
TEXTS = [" ".join(example.tokens) for example in EXAMPLES] * 2


def made(steps):
    pairs = [TASK.encode(example)[:2] for example in EXAMPLES]
    tokenizer = tiny_tokenizer([text for pair in pairs for text in pair])
    model = tiny_model(len(tokenizer))
    fit(model, tokenizer, pairs, steps)
    return model, tokenizer


def nested(results):
    spans = [result.prediction.spans for result in results]
    return sum(after.start < before.end for some in spans for before, after in pairwise(some))


def test_flat_entities_do_not_nest():
    tokenizer = made(0)[1]
    model = wanting(tokenizer, "[")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts that were cut
        free, flat = (
            predict(model, tokenizer, NerTask(LABELS, flat=flat), TEXTS, max_new_tokens=60) for flat in (False, True)
        )
    assert nested(free) > 0
    assert nested(flat) == 0
    assert any(result.prediction.spans for result in flat)


def test_confidence_is_the_probability_of_the_text_per_word():
    model, tokenizer = made(120)
    results = predict(model, tokenizer, NerTask(LABELS, flat=True), TEXTS, max_new_tokens=60)
    assert [result.prediction for result in results] == [*EXAMPLES] * 2
    for result in results:
        words = len(result.prediction.tokens)
        assert result.confidence is not None
        assert 0 < result.confidence <= 1
        # of the whole text, each span is a part
        assert result.confidence**words <= min(result.scores, default=1.0) * 1.000001


def test_confidence_without_a_grammar_is_not_known():
    model, tokenizer = made(120)
    (result,) = predict(model, tokenizer, TASK, TEXTS[:1], constrained=False, max_new_tokens=60)
    assert result.confidence is None


def test_confidence_of_windows_is_the_lowest():
    model, tokenizer = made(120)
    text = " ".join([TEXTS[0]] * 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (whole,) = predict(model, tokenizer, TASK, [text], max_new_tokens=80)
    assert any(problem.kind == "cut_into_windows" for problem in whole.problems)
    assert whole.confidence is not None
    assert 0 < whole.confidence <= 1
