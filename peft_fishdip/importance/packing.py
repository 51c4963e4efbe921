"""Rows that hold several examples, one after the other, as packing and padding-free collators make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from .losses import IGNORED, Batch, Numbered

OF_ROWS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
"""Arguments of transformers' models that say how rows are packed, and mean nothing for one of the examples."""


class Segment(NamedTuple):
    """The place of one example: the columns `start` to `stop` of a row."""

    row: int
    start: int
    stop: int


def segments(batch: Batch) -> list[Segment] | None:
    """The examples in the rows of a batch, those without a target left out; None if no row holds more than one.

    An example begins wherever `position_ids`, int64 (rows, length), is 0, and at the beginning of a row. Padding, at
    whatever side and position, has no target.
    """
    positions, labels = batch.get("position_ids"), batch.get("labels")
    if not isinstance(positions, Tensor) or not isinstance(labels, Tensor) or labels.dim() != 2:
        refuse_unmarked(batch)
        return None
    if positions.shape != labels.shape:
        return None
    found = []
    rows, targets = positions.tolist(), (labels != IGNORED).cumsum(1).tolist()
    for row, (places, targets_until) in enumerate(zip(rows, targets, strict=True)):
        starts = sorted({0, *(column for column, place in enumerate(places) if place == 0)})
        for start, stop in zip(starts, [*starts[1:], len(places)], strict=True):
            before = targets_until[start - 1] if start else 0
            if targets_until[stop - 1] > before:
                found.append(Segment(row, start, stop))
    return found if len({segment.row for segment in found}) < len(found) else None


def refuse_unmarked(batch: Batch) -> None:
    """Raise ValueError for packed rows whose examples cannot be told apart."""
    marks = [name for name in OF_ROWS if batch.get(name) is not None]
    if marks and "position_ids" not in batch:
        raise ValueError(
            f"a batch has {marks[0]}, so its rows hold several examples each, which cannot be ranked by one loss; have "
            "the data_collator return position_ids too, by which rows are split, or switch packing off."
        )


def refuse_packed(numbered: Numbered) -> None:
    """Raise ValueError if an example of a data set is itself a row of several packed examples."""
    found = segments(numbered.batch)
    if found is not None:
        packed = next(segment.row for i, segment in enumerate(found[1:]) if segment.row == found[i].row)
        raise ValueError(
            f"example {numbered.ids[packed]} is a row of several packed examples (its position_ids begin anew), which "
            "cannot be ranked by one loss; give update_mask or FishDipCallback(dataset=...) the examples before they "
            "are packed, or leave the updates to auto_update=True, which splits the rows of training."
        )


def example_of(batch: Batch, segment: Segment) -> Batch:
    """One example of packed rows as a batch of one row: what has a value for each token is cut to it, and copied."""
    shape = batch["labels"].shape

    def part(value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape[:2] == shape:
            return value[segment.row : segment.row + 1, segment.start : segment.stop].clone()
        return value

    cut: Mapping[str, Any] = {key: part(value) for key, value in batch.items() if key not in OF_ROWS}
    return cut
