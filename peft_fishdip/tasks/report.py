"""Precision, recall and F1 of each label, and a table of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .base import Decoded, check_lengths
from .checks import check_items
from .metrics import F1Score, joined_arguments
from .places import comparable
from .records import DstExample, JointExample, NerExample, RelationExample, Span, SrlExample
from .text import normalize


@dataclass(frozen=True)
class LabelScore(F1Score):
    """The score of a label, or of several together.

    Attributes:
        num_partial: gold items that are not found, but overlapped by a wrong prediction of the same label.
        num_mislabelled: gold items that are not found, but predicted in the same place under another label.
    """

    num_partial: int = 0
    num_mislabelled: int = 0


class Average(NamedTuple):
    """Means over labels."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Report:
    """What `score_report` gives; `print` shows it as a table.

    Attributes:
        labels: the score of each label that occurs in the examples or the predictions; `num_gold` is its support.
        micro: of all labels together.
        macro: the mean over labels.
        weighted: the mean over labels, weighted by their support.
        micro_without: of all labels but those that stand for no relation; None where none of these occurs.
        without: those labels, as far as they occur.
    """

    labels: dict[str, LabelScore]
    micro: LabelScore
    macro: Average
    weighted: Average
    micro_without: LabelScore | None = None
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows: list[tuple[str, Any, LabelScore]] = [(label, score, score) for label, score in self.labels.items()]
        rows.append(("micro avg", self.micro, self.micro))
        if self.micro_without is not None:
            rows.append((f"micro avg without {', '.join(self.without)}", self.micro_without, self.micro_without))
        rows += [("macro avg", self.macro, self.micro), ("weighted avg", self.weighted, self.micro)]
        width = max(len(name) for name, *_ in rows)
        head = ("precision", "recall", "f1-score", "support", "partial", "mislabelled")
        lines = [" " * width + "".join(f"{name:>13}" for name in head)]
        for name, mean, counts in rows:
            if name == "micro avg":
                lines.append("")
            figures = "".join(f"{value:>13.2f}" for value in (mean.precision, mean.recall, mean.f1))
            numbers = (counts.num_gold, counts.num_partial, counts.num_mislabelled)
            lines.append(f"{name:>{width}}{figures}" + "".join(f"{number:>13}" for number in numbers))
        return "\n".join(lines)


class Item(NamedTuple):
    """Something to be found: a label, what it stands on, and the tokens of each span of that, if there are any."""

    label: str
    place: object
    spans: tuple[tuple[int, int], ...] = ()


def score_report(
    gold: Sequence[Any],
    predicted: Sequence[Decoded[Any] | Any],
    *,
    of: str = "spans",
    without: Iterable[str] = ("no_relation",),
) -> Report:
    """Scores by label of predictions for examples, in the same order.

    Args:
        gold: records with labels.
        predicted: what `predict` returns for them, or records.
        of: for JointExamples, "spans" or "relations". A relation is right with both its spans and their labels.
        without: labels that stand for the absence of a relation; `micro_without` leaves them out.

    A prediction is right if label and boundaries are; partial matches are counted apart and are wrong. The micro, macro
    and weighted averages are those of seqeval. Spans are entities, arguments (as CoNLL-2005 counts them) or slots.
    """
    if of not in ("spans", "relations"):
        raise ValueError(f"of={of!r}: choose 'spans' or 'relations'")
    check_lengths(gold, predicted)
    check_items("without", without, "a list of labels, such as ['no_relation']")
    counts: dict[str, Counter[str]] = {}
    for number, (example, result) in enumerate(zip(gold, predicted, strict=True)):
        record = result.prediction if isinstance(result, Decoded) else result
        if type(record) is not type(example):
            kinds = f"{type(example).__name__} and {type(record).__name__}"
            raise TypeError(f"example {number}: {kinds} do not belong together; pass examples first, then predictions")
        if isinstance(example, NerExample | JointExample):
            example, record = comparable(example, record)
        _count(counts, _items(example, of), _items(record, of))
    labels = {label: _score(counts[label]) for label in sorted(counts)}
    scores = [*labels.values()]
    absent = tuple(label for label in dict.fromkeys(without) if label in labels)
    return Report(
        labels,
        _score(sum(counts.values(), Counter())),
        _mean(scores, [1] * len(scores)),
        _mean(scores, [score.num_gold for score in scores]),
        _score(sum((counts[x] for x in labels if x not in absent), Counter())) if absent else None,
        absent,
    )


def _items(record: Any, of: str) -> set[Item]:
    if of == "relations":
        if not isinstance(record, JointExample):
            raise TypeError(f"of='relations' is for JointExamples, got {type(record).__name__}")
        return {Item(x.label, (x.head, x.tail), (_range(x.head), _range(x.tail))) for x in record.relations}
    if isinstance(record, NerExample | JointExample):
        return {Item(span.label, _range(span), (_range(span),)) for span in record.spans}
    if isinstance(record, SrlExample):
        found = joined_arguments(record.arguments)
        return {Item(role, pieces, ((pieces[0][0], pieces[-1][1]),)) for role, pieces in found}
    if isinstance(record, RelationExample):
        return set() if record.label is None else {Item(record.label, "")}
    if isinstance(record, DstExample):
        return {Item(f"{x.domain} {x.slot}", (x.domain, x.slot, normalize(x.value))) for x in record.state}
    raise TypeError(f"records of the five tasks expected, got {type(record).__name__}")


def _range(span: Span) -> tuple[int, int]:
    return span.start, span.end


def _count(counts: dict[str, Counter[str]], gold: set[Item], predicted: set[Item]) -> None:
    for item in predicted | gold:
        of_label = counts.setdefault(item.label, Counter())
        of_label["gold"] += item in gold
        of_label["predicted"] += item in predicted
        of_label["correct"] += item in gold and item in predicted
    wrong = predicted - gold
    for item in gold - predicted:
        if any(other.label == item.label and _overlap(item, other) for other in wrong):
            counts[item.label]["partial"] += 1
        elif any(other.place == item.place for other in wrong):
            counts[item.label]["mislabelled"] += 1


def _overlap(one: Item, other: Item) -> bool:
    pairs = [*zip(one.spans, other.spans, strict=True)]
    return bool(pairs) and all(x[0] < y[1] and y[0] < x[1] for x, y in pairs)


def _score(counts: Counter[str]) -> LabelScore:
    return LabelScore(*(counts[name] for name in ("correct", "predicted", "gold", "partial", "mislabelled")))


def _mean(scores: Sequence[LabelScore], weights: Sequence[int]) -> Average:
    def mean(values: Iterable[float]) -> float:
        return sum(value * weight for value, weight in zip(values, weights, strict=True)) / (sum(weights) or 1)

    return Average(mean(x.precision for x in scores), mean(x.recall for x in scores), mean(x.f1 for x in scores))
