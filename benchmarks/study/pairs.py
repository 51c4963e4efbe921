"""Methods that differ in one thing: trained by the same kind of optimizer, or with as many changed entries."""

from __future__ import annotations

from collections.abc import Sequence

from ..report.content import Cell as Field
from ..report.content import Table, table
from ..report.score_cells import NOT_APART, NOTHING, bounds
from .summary import Summary

LORA, LORA_ADAFACTOR = "LoRA r8", "LoRA r8 (Adafactor)"
FULL, FULL_ADAFACTOR = "full fine-tuning", "full fine-tuning (Adafactor)"
DEFAULT, LARGER, ADAFACTOR = "Fish-Dip 1 %", "Fish-Dip 5 %", "Fish-Dip 5 % (SparseAdafactor)"
SAME_OPTIMIZER = ((ADAFACTOR, (LORA_ADAFACTOR, FULL_ADAFACTOR)), (LARGER, (LORA, FULL)), (DEFAULT, (LORA, FULL)))
MASKS = ("fixed Fisher mask", "random mask")
SAME_ENTRIES = (
    (DEFAULT, tuple(f"{mask} 2 %" for mask in MASKS)),
    (ADAFACTOR, tuple(f"{mask} 10 % (SparseAdafactor){at}" for at in ("", " at 1e-2") for mask in MASKS)),
)
"""Masks that stay, with as many entries as those of Fish-Dip have changed in the end, and its optimizer."""


def pair_table(found: Sequence[Summary], title: str, header: Sequence[str]) -> Table:
    """Differences of all pairs that were measured, one row for each."""
    pairs = [(name, other) for name, others in (*SAME_OPTIMIZER, *SAME_ENTRIES) for other in others]
    rows = [
        [f"{name} minus {other}", *(pair_field(summary, name, other) for summary in found)]
        for name, other in pairs
        if any(summary.named(name) and summary.named(other) for summary in found)
    ]
    return table(title, header, rows)


def pair_field(summary: Summary, name: str, other: str) -> Field:
    """The difference of the scores of two methods, by their names in words."""
    method, reference = summary.named(name), summary.named(other)
    return difference_field(summary, method, reference) if method and reference else NOTHING


def difference_field(summary: Summary, method: str, other: str) -> Field:
    found = summary.difference(method, other)
    told = f", {NOT_APART}" if found.contains_zero else ""
    return Field(f"{found.value:+.1f} {bounds(found, '+')}{told}", found.value)
