"""The answer of the study in three sentences, from the figures of its tables."""

from __future__ import annotations

from collections.abc import Sequence

from ..report.score_cells import NOT_APART, bounds
from .cells import NAMES
from .summary import Summary, changed_share

LORA, FULL = "LoRA r8", "full fine-tuning"
DEFAULT, LARGER, ADAFACTOR = "Fish-Dip 1 %", "Fish-Dip 5 %", "Fish-Dip 5 % (SparseAdafactor)"
FIXED = ("fixed Fisher mask 1 %", "random mask 1 %", "fixed Fisher mask 2 %", "random mask 2 %")


def answer(found: Sequence[Summary]) -> str:
    """How Fish-Dip stands to LoRA, what a mask that moves gains, and who is best at what size."""
    return " ".join([*to_lora(found), *to_fixed_masks(found), leaders(found)])


def to_lora(found: Sequence[Summary]) -> list[str]:
    """In which cells Fish-Dip is ahead of LoRA, behind it, or not told apart from it."""
    parts = []
    for name in (DEFAULT, LARGER, ADAFACTOR):
        groups: dict[str, list[Summary]] = {"ahead": [], "behind": [], NOT_APART: []}
        for summary in found:
            method, reference = summary.named(name), summary.named(LORA)
            if method and reference:
                difference = summary.difference(method, reference)
                told = "ahead" if difference.value > 0 else "behind"
                groups[NOT_APART if difference.contains_zero else told].append(summary)
        standing = [f"{told} with {places(group)}" for told, group in groups.items() if group]
        parts += [f"{name} is {listed(standing)}"] if standing else []
    return [f"Compared with {LORA} by F1, {'; '.join(parts)}."] if parts else []


def to_fixed_masks(found: Sequence[Summary]) -> list[str]:
    """By how much the mask that moves is ahead of masks that stay, where both were measured."""
    parts = []
    for name in FIXED:
        for summary in found:
            method, reference = summary.named(DEFAULT), summary.named(name)
            if method and reference:
                difference = summary.difference(method, reference)
                told = f" ({NOT_APART})" if difference.contains_zero else ""
                parts.append(
                    f"{difference.value:+.1f} {bounds(difference, '+')}{told} to a {name} ({places([summary])})"
                )
    if not parts:
        return []
    shares = {f"{x.mean(method, changed_share):.1f} %" for x in found if (method := x.named(DEFAULT))}
    return [f"{DEFAULT}, which has changed {listed(sorted(shares))} in the end, differs by {listed(parts)}."]


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
