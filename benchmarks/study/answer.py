"""The answer of the study in three sentences, from the figures of its tables."""

from __future__ import annotations

from collections.abc import Sequence

from ..report.score_cells import NOT_APART
from .cells import NAMES
from .pairs import ADAFACTOR, DEFAULT, FULL, LARGER, LORA, LORA_ADAFACTOR, SAME_ENTRIES
from .summary import Summary

TO_LORA = ((LORA, (DEFAULT, LARGER, ADAFACTOR)), (LORA_ADAFACTOR, (ADAFACTOR,)))


def answer(found: Sequence[Summary]) -> str:
    """Who is best at what size, how Fish-Dip stands to LoRA, and what a mask that moves gains."""
    return " ".join([leaders(found), *to_lora(found), *to_fixed_masks(found)])


def leaders(found: Sequence[Summary]) -> str:
    """Which method is best where, which adapter is, and how large the files are in the cell with the most methods."""
    best = [(summary, max(summary.methods, key=summary.score)) for summary in found]
    adapters = [(summary, max(own, key=summary.score)) for summary in found if (own := adapters_of(summary))]
    of_adapters = f" (of the adapters by {where(adapters)})" if where(adapters) not in ("", where(best)) else ""
    summary = max(found, key=lambda summary: len(summary.methods))
    methods = [(name, summary.named(name)) for name in (LORA, DEFAULT, LARGER, FULL)]
    sizes = listed([f"{summary.saved(method):.1f} MiB by {name}" for name, method in methods if method])
    return f"The highest mean F1 is reached by {where(best)}{of_adapters}, and what is saved takes {sizes}."


def adapters_of(summary: Summary) -> list[str]:
    return [method for method in summary.methods if not NAMES[method].startswith(FULL)]


def where(methods: Sequence[tuple[Summary, str]]) -> str:
    """Methods in words, each with the cells that it was given with."""
    groups: dict[str, list[Summary]] = {}
    for summary, method in methods:
        groups.setdefault(NAMES[method], []).append(summary)
    return listed([f"{name} with {places(group)}" for name, group in groups.items()])


def to_lora(found: Sequence[Summary]) -> list[str]:
    """In which cells Fish-Dip is ahead of LoRA, behind it, or not told apart from it."""
    parts: list[str] = []
    for reference, names in TO_LORA:
        standings = [f"{name} is {standing}" for name in names if (standing := standing_of(found, name, reference))]
        parts += [f"{'compared' if parts else 'Compared'} with {reference}, {', '.join(standings)}"] * bool(standings)
    return [f"{'; '.join(parts)}."] if parts else []


def to_fixed_masks(found: Sequence[Summary]) -> list[str]:
    """In which cells masks that move are ahead of masks that stay with as many entries."""
    parts: list[str] = []
    for name, fixed in SAME_ENTRIES:
        groups: dict[str, list[str]] = {}
        for other in fixed:
            groups.setdefault(standing_of(found, name, other), []).append(other)
        standings = [f"{standing} ({listed(others)})" for standing, others in groups.items() if standing]
        parts += [f"{name} is {listed(standings)}"] * bool(standings)
    return [f"Compared with masks that stay and have as many changed entries, {', '.join(parts)}."] if parts else []


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


def places(found: Sequence[Summary]) -> str:
    """Models and numbers of training sentences."""
    models: dict[str, list[str]] = {}
    for summary in found:
        models.setdefault(summary.cell.model, []).append(str(summary.cell.num_train))
    return listed([f"{model} on {listed(numbers)} sentences" for model, numbers in models.items()])


def listed(parts: Sequence[str]) -> str:
    """With commas, and "and" before the last one."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
