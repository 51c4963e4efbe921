"""Tasks as tags of words, for encoders with a token classifier."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import exp
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from .base import Decoded, Problem, Task
from .lengths import longest
from .records import Span
from .tagging import is_tag, spans_to_tags, tags_to_spans
from .words import words_of

E = TypeVar("E")
IGNORED = -100
"""The label of tokens that are no target: special ones, and all tokens of a word but its first."""


class Reading(NamedTuple):
    """The words that a model reads of an example, and the token ids.

    Attributes:
        ids: token ids with special tokens.
        places: of each word that is read, its position among all words of the example.
        firsts: of each of these, the position of its first token; None for a word without tokens.
        num_tokens: of the whole example.
    """

    ids: list[int]
    places: list[int]
    firsts: list[int | None]
    num_tokens: int


class TokenClassificationTask(Generic[E]):
    """A NerTask, SrlTask or DstTask as BIO tags of words. Records and metrics are those of the task.

    The label of a word stands at its first token. `tagged` reports "nested_span" for a span within another one, of
    which tags keep the longer, and what `DialogueWords` reports. `unread` reports "word_without_tokens" for a span
    that begins or ends with a word for which the tokenizer has no token, such as a zero-width character, which is not
    found there.

    Raises:
        ValueError: the task cannot be written as tags.

    Attributes:
        task: whose records these are.
        tags: the classes, in order of their numbers: "O", then "B-" and "I-" of each label.
    """

    def __init__(self, task: Task[E]) -> None:
        self.task = task
        self.words = words_of(task)
        self.tags = ["O", *(f"{prefix}-{label}" for label in self.words.labels for prefix in "BI")]
        for tag in self.tags:
            if not is_tag(tag):
                raise ValueError(f"the label {tag[2:]!r} cannot stand in a tag, since it reads as several; rename it")

    @property
    def classes(self) -> list[str]:
        return self.tags

    def tagged(self, example: E) -> tuple[list[str], list[Problem]]:
        """The tag of each word, and what tags cannot say."""
        spans, problems = self.words.spans(example)
        kept: list[Span] = []
        for span in sorted(spans, key=lambda span: (span.start - span.end, span.start)):
            if any(span.start < other.end and other.start < span.end for other in kept):
                problems.append(Problem("nested_span", f"{span} has words with a longer span; tags are flat"))
            else:
                kept.append(span)
        return spans_to_tags(kept, len(self.words.words(example))), problems

    def read(self, tokenizer: Any, example: E, max_length: int) -> Reading:
        """What a model reads of an example, which has at most `max_length` tokens."""
        words = self.words.words(example)
        ids, firsts = pieces(tokenizer, words)
        if len(ids) <= max_length:
            return Reading(ids, [*range(len(words))], firsts, len(ids))
        order = self.words.by_importance(example)

        def part(count: int) -> Reading:
            places = sorted(order[:count])
            some, of_words = pieces(tokenizer, [words[place] for place in places])
            return Reading(some, places, of_words, len(ids))

        return part(longest(lambda count: len(part(count).ids) <= max_length, len(words)))

    def num_tokens(self, tokenizer: Any, example: E) -> int:
        """Of the whole example, with special tokens."""
        return len(pieces(tokenizer, self.words.words(example))[0])

    def feature(self, reading: Reading, tags: Sequence[str]) -> dict[str, list[int]]:
        """`input_ids`, `attention_mask` and `labels` of a reading."""
        labels = [IGNORED] * len(reading.ids)
        begins = False  # a span, in the words without tokens before this one
        for place, first in zip(reading.places, reading.firsts, strict=True):
            tag = tags[place]
            if first is None:
                begins = tag.startswith("B-") or (begins and tag.startswith("I-"))
                continue
            labels[first] = self.tags.index(f"B-{tag[2:]}" if begins and tag.startswith("I-") else tag)
            begins = False
        return {"input_ids": reading.ids, "attention_mask": [1] * len(reading.ids), "labels": labels}

    def unread(self, reading: Reading, tags: Sequence[str]) -> list[Problem]:
        """What of the tags no token can have."""
        without = {place for place, first in zip(reading.places, reading.firsts, strict=True) if first is None}
        return [
            Problem("word_without_tokens", f"{span} begins or ends with a word for which the tokenizer has no token")
            for span in (tags_to_spans(tags) if without else ())
            if span.start in without or span.end - 1 in without
        ]

    def decode(self, example: E, reading: Reading, logits: Tensor) -> Decoded[E]:
        """The prediction from the logits of its tokens, (tokens, classes). Words that were not read have no span.

        The score of a span is the product of the probabilities of its words' tags.
        """
        logps, best = logits.float().log_softmax(-1).max(-1)
        tags = ["O"] * len(self.words.words(example))
        words = [0.0] * len(tags)
        for place, first in zip(reading.places, reading.firsts, strict=True):
            if first is not None:
                tags[place], words[place] = self.tags[int(best[first])], float(logps[first])
        _go_on(tags, reading)
        spans = tags_to_spans(tags)
        prediction = self.words.found(example, spans)
        scores = {
            answer: exp(sum(words[span.start : span.end]))
            for span in spans
            for answer in self.task.answers(self.words.found(example, [span]))
        }
        found = tuple(scores[answer] for answer in self.task.answers(prediction))
        return Decoded(prediction, (), self.task.target(prediction)[0], found, exp(sum(words) / max(len(words), 1)))


def _go_on(tags: list[str], reading: Reading) -> None:
    """Let spans go on over words without tokens."""
    last, between = -1, 0
    for place, first in zip(reading.places, reading.firsts, strict=True):
        if first is None:
            between += 1
            continue
        goes_on = tags[place].startswith("I-") and last >= 0 and tags[last][2:] == tags[place][2:]
        if goes_on and place - last == between + 1:
            tags[last + 1 : place] = [tags[place]] * between
        last, between = place, 0


def pieces(tokenizer: Any, words: Sequence[str]) -> tuple[list[int], list[int | None]]:
    """Token ids of words with single spaces between them, and the position of each word's first token, if it has one.

    A token belongs to the word in which it ends, since some tokenizers put the space before a word into its token.

    Raises:
        ValueError: the tokenizer is a slow one, which does not tell where its tokens stand.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} does not tell which word a token belongs to; load the fast tokenizer, as "
            "AutoTokenizer does by default"
        )
    coded = tokenizer(" ".join(words), return_offsets_mapping=True, verbose=False)
    starts = [0, *accumulate(len(word) + 1 for word in words)][: len(words)]
    firsts: list[int | None] = [None] * len(words)
    for position, (start, end) in enumerate(coded["offset_mapping"]):
        if end <= start:
            continue  # a special token
        word = bisect_right(starts, end - 1) - 1
        if firsts[word] is None and end - 1 < starts[word] + len(words[word]):
            firsts[word] = position
    return list(coded["input_ids"]), firsts
