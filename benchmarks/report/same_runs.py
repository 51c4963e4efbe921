"""Fractions of the training examples that leave the same examples, because their number has a limit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .rows import Row, Setting, settings_of, train_config


def same_settings(rows: Sequence[Row]) -> list[list[Setting]]:
    """Settings that differ in the fraction alone and trained on the same examples, two or more in each list.

    The examples of a seed are nested: the same number of them means the same ones.
    """
    groups: dict[Any, list[Setting]] = {}
    for setting in settings_of(rows):
        if setting.fraction is not None:
            rest = re.sub(r"^\S+ %", "", setting.protocol)
            counts = counts_by_seed([row for row in rows if row.setting == setting])
            groups.setdefault((setting.group, rest, counts), []).append(setting)
    return [group for group in groups.values() if len(group) > 1]


def counts_by_seed(rows: Sequence[Row]) -> tuple[tuple[Any, ...], ...]:
    """Of each seed, how many training examples there were, with and without labels."""
    configs = [train_config(run) for row in rows for run in row.runs]
    names = ("seed", "num_train_examples", "num_unlabelled_examples")
    return tuple(sorted({tuple(config.get(name) or 0 for name in names) for config in configs}))


def repeated_settings(rows: Sequence[Row]) -> set[Setting]:
    """All but the first of settings that are the same."""
    return {setting for group in same_settings(rows) for setting in group[1:]}


def same_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Which fractions are the same, in words."""
    notes = []
    for group in same_settings(rows):
        fractions = [f"{100 * (setting.fraction or 0):g} %" for setting in group]
        counts = sorted({count for _, count, _ in counts_by_seed([row for row in rows if row.setting == group[0]])})
        notes.append(
            f"{group[0].data_title}: {' and '.join(fractions)} of the training examples are the same runs: --max-train "
            f"leaves the same {' or '.join(f'{count:,}' for count in counts)} examples of each."
        )
    return tuple(notes)
