"""Plain text as what a model was pretrained to predict: the next tokens, or tokens that are hidden from it.

What is hidden is drawn by the number of the text, so it is the same for all methods, before and after training.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

from peft_fishdip.tasks.families import CAUSAL, SEQ2SEQ

SHARE = 0.15
"""Of the tokens, so many are hidden."""
MEAN_SPAN = 3
"""Tokens of a hidden span on average, as in the pretraining of T5."""

Feature = dict[str, list[int]]
Objective = Callable[[Sequence[int], Sequence[bool], int], Feature]
"""From token ids, which of them are no text but marks around it, and the number of the text."""


def objective(tokenizer: Any, kind: str, most: int) -> Objective | str:
    """What a model is asked to predict, or why it cannot be asked.

    Args:
        kind: what the model does, by PEFT's name; of an encoder, it is the masked-LM head that is asked.
        most: tokens of the longest text.
    """
    if kind == CAUSAL:
        return next_tokens
    if kind != SEQ2SEQ:
        mask = tokenizer.mask_token_id
        if mask is None:
            return "the tokenizer has no mask token"
        return lambda ids, marks, number: masked(ids, marks, number, mask)
    known = tokenizer.get_vocab()
    names = [f"<extra_id_{i}>" for i in range(max(1, round(SHARE * most / MEAN_SPAN)))]
    if missing := [name for name in names if name not in known]:
        return f"the tokenizer has no {missing[0]}, one of the sentinels by which a T5 fills hidden spans"
    sentinels, end = [known[name] for name in names], tokenizer.eos_token_id
    return lambda ids, marks, number: hidden_spans(text_of(ids, marks), number, sentinels, end)


def text_of(ids: Sequence[int], marks: Sequence[bool]) -> list[int]:
    return [token for token, mark in zip(ids, marks, strict=True) if not mark]


def next_tokens(ids: Sequence[int], marks: Sequence[bool], number: int = 0) -> Feature:
    """Each token is predicted from those before it; the first one only if a mark stands before it."""
    labels = [-100 if mark or i == 0 else ids[i] for i, mark in enumerate(marks)]
    return feature(ids, labels)


def masked(ids: Sequence[int], marks: Sequence[bool], number: int, mask: int) -> Feature:
    """Some tokens are replaced by the mask token and predicted."""
    places = [i for i, mark in enumerate(marks) if not mark]
    hidden = set(random.Random(number).sample(places, max(1, round(SHARE * len(places)))))
    labels = [token if i in hidden else -100 for i, token in enumerate(ids)]
    return feature([mask if i in hidden else token for i, token in enumerate(ids)], labels)


def hidden_spans(text: Sequence[int], number: int, sentinels: Sequence[int], end: int) -> Feature:
    """Span corruption (Raffel et al. 2020): a sentinel for each hidden span, whose tokens follow it in the target."""
    chance = random.Random(number)
    hidden = min(max(1, round(SHARE * len(text))), len(text) - 1)
    spans = min(max(1, round(hidden / MEAN_SPAN)), len(text) - hidden, len(sentinels))
    kept, gone = parts(len(text) - hidden, spans, chance), parts(hidden, spans, chance)
    source: list[int] = []
    target: list[int] = []
    start = 0
    for sentinel, before, inside in zip(sentinels, kept, gone, strict=False):
        source += [*text[start : start + before], sentinel]
        target += [sentinel, *text[start + before : start + before + inside]]
        start += before + inside
    return feature([*source, end], [*target, end])


def parts(total: int, count: int, chance: random.Random) -> list[int]:
    """`count` lengths of at least 1 whose sum is `total`; all ways to cut are equally likely."""
    cuts = [0, *sorted(chance.sample(range(1, total), count - 1)), total]
    return [end - start for start, end in itertools.pairwise(cuts)]


def feature(ids: Sequence[int], labels: Sequence[int]) -> Feature:
    return {"input_ids": [*ids], "attention_mask": [1] * len(ids), "labels": [*labels]}
