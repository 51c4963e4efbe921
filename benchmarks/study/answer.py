"""The answer of the study in three sentences, from the figures of its tables."""

from __future__ import annotations

from collections.abc import Sequence

from ..report.score_cells import NOT_APART, bounds
from .cells import NAMES
from .summary import Summary

LORA, LORA_ADAFACTOR, FULL = "LoRA r8", "LoRA r8 (Adafactor)", "full fine-tuning"
DEFAULT, LARGER, ADAFACTOR = "Fish-Dip 1 %", "Fish-Dip 5 %", "Fish-Dip 5 % (SparseAdafactor)"
TO_LORA = ((LORA, (DEFAULT, LARGER, ADAFACTOR)), (LORA_ADAFACTOR, (ADAFACTOR,)))
FIXED = (
    (DEFAULT, ("fixed Fisher mask 2 %", "random mask 2 %")),
    (ADAFACTOR, ("fixed Fisher mask 10 % (SparseAdafactor)", "random mask 10 % (SparseAdafactor)")),
)
"""Masks that stay, with as many entries as those of Fish-Dip have changed in the end, and its optimizer."""


ALIKE = ((ADAFACTOR, (LORA_ADAFACTOR, "full fine-tuning (Adafactor)")), (LARGER, (LORA, FULL)))
"""Methods that the same kind of optimizer trains."""


def answer(found: Sequence[Summary]) -> str:
    """How Fish-Dip stands to LoRA, what a mask that moves gains, and who is best at what size."""
    return " ".join([*to_lora(found), *by_the_same_optimizer(found), *to_fixed_masks(found), leaders(found)])


def to_lora(found: Sequence[Summary]) -> list[str]:
    """In which cells Fish-Dip is ahead of LoRA, behind it, or not told apart from it."""
    parts = []
    for reference, names in TO_LORA:
        standings = [f"{name} is {standing}" for name in names if (standing := standing_of(found, name, reference))]
        parts += [f"Compared with {reference} by F1, {'; '.join(standings)}"] if standings else []
    return [f"{'. '.join(parts)}."] if parts else []


def standing_of(found: Sequence[Summary], name: str, other: str) -> str:
    """Of one method beside another: where it is ahead, behind or neither; empty if nowhere both were measured."""
    groups: dict[str, list[Summary]] = {"ahead": [], "behind": [], NOT_APART: []}
    for summary in found:
        method, reference = summary.named(name), summary.named(other)
        if method and reference:
            difference = summary.difference(method, reference)
            told = "ahead" if difference.value > 0 else "behind"
            groups[NOT_APART if difference.contains_zero else told].append(summary)
    return listed([f"{told} with {places(group)}" for told, group in groups.items() if group])


def by_the_same_optimizer(found: Sequence[Summary]) -> list[str]:
    """By how much Fish-Dip with more entries differs from LoRA and full fine-tuning, where both were measured."""
    parts = [
        f"{name} differs by {listed(differences)}"
        for name, others in ALIKE
        if (
            differences := [
                difference_in_words(x, name, y) for y in others for x in found if x.named(name) and x.named(y)
            ]
        )
    ]
    return [f"By the same kind of optimizer, {'; '.join(parts)}."] if parts else []


def to_fixed_masks(found: Sequence[Summary]) -> list[str]:
    """By how much masks that move are ahead of masks that stay with as many entries, where both were measured."""
    parts = []
    for name, fixed in FIXED:
        differences = [
            difference_in_words(summary, name, other)
            for other in fixed
            for summary in found
            if summary.named(name) and summary.named(other)
        ]
        parts += [f"{name} differs by {listed(differences)}"] if differences else []
    return [f"With as many changed entries, the moving mask of {', and that of '.join(parts)}."] if parts else []


def difference_in_words(summary: Summary, name: str, other: str) -> str:
    found = summary.difference(summary.named(name) or "", summary.named(other) or "")
    told = f" ({NOT_APART})" if found.contains_zero else ""
    return f"{found.value:+.1f} {bounds(found, '+')}{told} from {other} ({places([summary])})"


def leaders(found: Sequence[Summary]) -> str:
    """Which method is best where, and what each saves, in the cell with the most methods."""
    best: dict[str, list[Summary]] = {}
    for summary in found:
        best.setdefault(NAMES[max(summary.methods, key=summary.score)], []).append(summary)
    first = listed([f"{name} with {places(group)}" for name, group in best.items()])
    summary = max(found, key=lambda summary: len(summary.methods))
    methods = [(name, summary.named(name)) for name in (LORA, DEFAULT, LARGER, FULL)]
    sizes = listed([f"{summary.saved(method):.1f} MiB by {name}" for name, method in methods if method])
    return f"The highest mean F1 is reached by {first}, and what is saved takes {sizes} ({places([summary])})."


def places(found: Sequence[Summary]) -> str:
    """Models and numbers of training sentences."""
    models: dict[str, list[str]] = {}
    for summary in found:
        models.setdefault(summary.cell.model, []).append(str(summary.cell.num_train))
    return listed([f"{model} on {listed(numbers)} sentences" for model, numbers in models.items()])


def listed(parts: Sequence[str]) -> str:
    """With commas, and "and" before the last one."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
