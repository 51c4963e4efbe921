"""Warnings of names in a config that select nothing, as misspelt ones do."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from peft import TaskType
from torch import nn

from ..adapter.combine import listed
from ..adapter.initial import Target
from ..config import FishDipConfig
from .targets import plain_name

ADDED_BY_PEFT: dict[Any, set[str]] = {
    TaskType.SEQ_CLS: {"classifier", "score"},
    TaskType.TOKEN_CLS: {"classifier", "score"},
    TaskType.QUESTION_ANS: {"qa_outputs"},
}
"""Names that PEFT adds to modules_to_save, whether or not the model has them."""


def warn_of_unmatched(model: nn.Module, config: FishDipConfig, targets: Iterable[Target]) -> None:
    """Warn of single target_modules, layers_to_transform and modules_to_save that select nothing.

    Not for the config of a saved adapter: it has said so when it was made. If nothing is selected at all, other
    checks raise.
    """
    if config.checkpointed()[0] is not None:
        return
    names = [plain_name(name) for name, _ in model.named_modules(remove_duplicate=False)]
    for field, unmatched in without_effect(names, config, [target.name for target in targets]):
        warnings.warn(
            f"{field}: no module of {type(model).__name__} matches {listed(unmatched)}, so that this has no effect; "
            "print the model for the names that it has, and correct what you meant, or leave it out.",
            UserWarning,
            stacklevel=2,
        )


def without_effect(names: list[str], config: FishDipConfig, tuned: list[str]) -> Iterator[tuple[str, list[Any]]]:
    """Fields and those of their entries that select nothing; `names` are all modules, `tuned` the parameters found."""
    if isinstance(config.target_modules, (set, list, tuple)):
        ends = {tail for name in names for tail in tails(name)}
        if missing := sorted(set(config.target_modules) - ends):
            yield "target_modules", missing
    if isinstance(config.layers_to_transform, (list, tuple)):
        parts = {part for name in tuned for part in name.split(".")}
        if layers := [layer for layer in config.layers_to_transform if str(layer) not in parts]:
            yield "layers_to_transform", layers
    added = ADDED_BY_PEFT.get(config.task_type, set())
    wanted = [name for name in dict.fromkeys(config.modules_to_save or ()) if name not in added]
    if lost := [wanted_name for wanted_name in wanted if not any(name.endswith(wanted_name) for name in names)]:
        yield "modules_to_save", lost


def tails(name: str) -> Iterator[str]:
    """A dotted name and all of its ends that begin after a dot."""
    while name:
        yield name
        _, _, name = name.partition(".")
