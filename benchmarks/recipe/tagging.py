"""Sentences as features of a token classifier, and its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForTokenClassification, AutoTokenizer

from peft_fishdip.tasks import NerExample, Span, micro_f1, spans_to_tags, tags_to_spans

from ..features import Collate, Features, collate
from .sentences import Sentences

IGNORED = -100  # the label of tokens that are not the first of their word
BATCH_SIZE = 16
MAX_LENGTH = 128


class Tagger:
    """An encoder with a new token classifier over BIO tags."""

    kind: ClassVar[str] = "tagger"
    task_type: ClassVar[str] = "TOKEN_CLS"
    """PEFT trains the whole new classifier beside an adapter of this type."""

    def __init__(self, name: str, sentences: Sentences) -> None:
        self.tags = sentences.tags
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        options: Any = {"num_labels": len(self.tags), "dtype": torch.float32}
        self.model = AutoModelForTokenClassification.from_pretrained(name, **options)

    @property
    def collator(self) -> Collate:
        return collate

    def features(self, examples: Sequence[NerExample]) -> Features:
        return to_features(examples, self.tags, self.tokenizer, MAX_LENGTH)

    def scores(self, model: Any, examples: Sequence[NerExample]) -> tuple[float, float]:
        """Micro F1 of whole entities, and the mean loss of a word in nats, of the adapted model."""
        return scores(model, self.features(examples), examples, self.tags)


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
