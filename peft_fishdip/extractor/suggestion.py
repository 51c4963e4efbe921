"""Which texts to annotate next: those that a model is least certain of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..tasks.base import Decoded


class Suggestion(NamedTuple):
    """A text to annotate: its position among those given, the model's uncertainty, and its prediction."""

    position: int
    uncertainty: float
    result: Decoded[Any]


def uncertainty(result: Decoded[Any]) -> float:
    """1 minus the probability of the whole labelled text per word, that is, 1 - exp(log p / number of words).

    The label for each word and the absence of a label count alike, so that texts without spans are compared with those
    that have some, and long texts with short ones (maximum normalized log-probability, Shen et al., 2018). A text whose
    prediction has no probability, since it was cut, is the most uncertain.
    """
    return 1.0 if result.confidence is None else 1.0 - result.confidence


def suggest(results: Sequence[Decoded[Any]], number: int, known: Iterable[str] = ()) -> list[Suggestion]:
    """The predictions of the lowest confidence, the least certain first; of equal texts one.

    Args:
        results: of raw texts.
        number: how many, at most.
        known: texts that are annotated already.
    """
    if number < 1:
        raise ValueError(f"{number} suggestions: give a number above 0")
    seen = {_words(text) for text in known}
    found = []
    for position, result in enumerate(results):
        record = result.prediction
        words = _words(record.text or " ".join(record.tokens))
        if words and words not in seen:
            seen.add(words)
            found.append(Suggestion(position, uncertainty(result), result))
    return sorted(found, key=lambda each: (-each.uncertainty, each.position))[:number]


def _words(text: str) -> str:
    return " ".join(text.split())
