"""Sentences as features of a token classifier, and its score."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from peft_fishdip.tasks import NerExample, Span, micro_f1, read_conll, read_conll04, spans_to_tags, tags_to_spans

from ..features import Features, collate
from ..settings import SettingsError

IGNORED = -100  # the label of tokens that are not the first of their word
BATCH_SIZE = 16
FILES = {
    "conll04-ner": ("conll04/conll04_train.json", "conll04/conll04_dev.json"),
    "wnut17": ("wnut17/wnut17train.conll", "wnut17/emerging.dev.conll"),
    "masakhaner-swa": ("masakhaner/swa/train.txt", "masakhaner/swa/dev.txt"),
}
"""The training and the validation part of each data set; the test part is never read."""


@dataclass(frozen=True)
class Tagged:
    """A data set as some sentences to train on, others to validate on, and all BIO tags."""

    tags: list[str]
    train: list[NerExample]
    validation: list[NerExample]


def load_tagged(name: str, root: Path, num_train: int, most_words: int, num_validation: int, seed: int) -> Tagged:
    """So many training sentences of at most `most_words` words, drawn by the seed, and the same validation sentences,
    of any length, for all seeds.

    Raises:
        SettingsError: the data set is missing or malformed, or has too few sentences.
    """
    try:
        train, validation = (
            [*(read_conll04 if file.endswith("json") else read_conll)(root / file)] for file in FILES[name]
        )
    except (OSError, ValueError) as error:
        raise SettingsError(f"data set {name!r} of --data {root}: {error}") from error
    labels = sorted({span.label for example in train for span in example.spans})
    train = [example for example in train if len(example.tokens) <= most_words]
    if len(train) < num_train:
        raise SettingsError(f"data set {name!r} has {len(train)} short training sentences; {num_train} are needed")
    tags = ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]
    few = random.Random(0).sample(validation, min(num_validation, len(validation)))
    return Tagged(tags, random.Random(seed).sample(train, num_train), few)


def to_features(examples: Sequence[NerExample], tags: Sequence[str], tokenizer: Any, max_length: int) -> Features:
    """Token ids, with the tag of a word at its first token."""
    number = {tag: i for i, tag in enumerate(tags)}
    features = []
    for example in examples:
        of_words = spans_to_tags(example.spans, len(example.tokens))
        coded = tokenizer([*example.tokens], is_split_into_words=True, truncation=True, max_length=max_length)
        words = coded.word_ids()
        labels = [
            IGNORED if word is None or word == before else number[of_words[word]]
            for word, before in zip(words, [None, *words], strict=False)
        ]
        features.append({"input_ids": coded["input_ids"], "attention_mask": coded["attention_mask"], "labels": labels})
    return features


@torch.no_grad()
def scores(model: Any, features: Features, examples: Sequence[NerExample], tags: Sequence[str]) -> tuple[float, float]:
    """Micro F1 of whole entities, as seqeval counts them, and the mean loss of a word in nats.

    Words that were cut off have no entity, and no loss.
    """
    model.eval()
    predicted: dict[int, set[Span]] = {}
    total, count = 0.0, 0
    order = sorted(range(len(features)), key=lambda i: len(features[i]["labels"]))
    for start in range(0, len(order), BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        batch = collate([features[i] for i in chosen])
        labels = batch.pop("labels")
        logits = model(**batch).logits
        total += cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="sum").item()
        count += int((labels != IGNORED).sum())
        for i, best, row in zip(chosen, logits.argmax(-1), labels, strict=True):
            predicted[i] = set(tags_to_spans([tags[number] for number in best[row != IGNORED].tolist()]))
    gold = [set(example.spans) for example in examples]
    return micro_f1(gold, [predicted[i] for i in range(len(gold))]).f1, total / count
