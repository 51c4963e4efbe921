"""The operations that happen as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from peft_fishdip import FishDipConfig

from .subjects import FAMILIES, Subject, made, scores_for


class Operation(NamedTuple):
    make: Callable[[str], Subject]
    run: Callable[[Subject, Path], object]
    can_stop_between: bool = False
    """Whether PEFT's own part may leave a new adapter that has not been loaded, and has no effect, until the retry."""


def update_mask(subject: Subject, folder: Path) -> None:
    examples = FAMILIES[subject.family][1](4)
    subject.model.base_model.update_mask(examples, optimizer=subject.optimizer, batch_size=2)


def set_mask(subject: Subject, folder: Path) -> None:
    subject.model.base_model.set_mask(scores_for(subject.model, 7), optimizer=subject.optimizer)


def load_over(subject: Subject, folder: Path) -> None:
    subject.model.load_adapter(str(folder / subject.family), "default", is_trainable=True)


def load_state_dict(subject: Subject, folder: Path) -> None:
    subject.model.load_state_dict(torch.load(folder / f"{subject.family}.pt", weights_only=True))


def load_new(subject: Subject, folder: Path) -> None:
    subject.model.load_adapter(str(folder / subject.family), "new")


def add_adapter(subject: Subject, folder: Path) -> None:
    if "new" not in subject.model.peft_config:
        subject.model.add_adapter("new", FishDipConfig(density=0.04, init_weights=False, delta_scale="rms"))


def add_weighted_adapter(subject: Subject, folder: Path) -> None:
    if "new" not in subject.model.peft_config:
        subject.model.base_model.add_weighted_adapter(["default", "other"], [0.5, 2.0], "new")


def merge(subject: Subject, folder: Path) -> None:
    subject.model.merge_adapter(["default"])


def merge_safely(subject: Subject, folder: Path) -> None:
    subject.model.merge_adapter(["default"], safe_merge=True)


def unmerge(subject: Subject, folder: Path) -> None:
    subject.model.unmerge_adapter()


OPERATIONS = {
    "update_mask": Operation(made, update_mask),
    "update_mask, SparseAdafactor": Operation(lambda family: made(family, "adafactor"), update_mask),
    "set_mask": Operation(made, set_mask),
    "load_adapter over the same name": Operation(made, load_over),
    "load_state_dict": Operation(made, load_state_dict),
    "load_adapter as a new one": Operation(made, load_new, can_stop_between=True),
    "add_adapter": Operation(made, add_adapter),
    "add_weighted_adapter": Operation(made, add_weighted_adapter),
    "merge_adapter": Operation(made, merge),
    "merge_adapter, safely": Operation(made, merge_safely),
    "merge_adapter on top of another": Operation(lambda family: made(family, merged=("other",)), merge),
    "unmerge_adapter": Operation(lambda family: made(family, merged=("other", "default")), unmerge),
}
