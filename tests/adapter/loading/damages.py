"""Damages of a saved adapter that leave it well formed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def summary_key(tensors: Tensors) -> str:
    (key,) = [key for key in tensors if "fishdip_summary" in key]
    return key


def numbered(tensors: Tensors) -> list[tuple[str, int]]:
    """The key of the positions of each parameter with inactive entries, and its number of active ones.

    Found by where the ascending active run ends, not by the summary.
    """
    found = []
    for key, positions in tensors.items():
        if "fishdip_indices" in key and positions.numel() > 4:
            ends = (positions[1:] < positions[:-1]).nonzero().flatten()
            if ends.numel():
                found.append((key, int(ends[0]) + 1))
    return found


def flipped_value(tensors: Tensors) -> None:
    key, _ = numbered(tensors)[0]
    tensors[key.replace("indices", "values")][2] *= -1


def flipped_inactive_value(tensors: Tensors) -> None:
    key, _ = numbered(tensors)[-1]
    tensors[key.replace("indices", "values")][-1] *= -1


def swapped_position(tensors: Tensors) -> None:
    """An active entry becomes inactive and the other way round: well formed, with the same deltas."""
    key, active = numbered(tensors)[0]
    positions, values = tensors[key], tensors[key.replace("indices", "values")]
    order = torch.arange(positions.numel())
    order[active - 1], order[active] = active, active - 1
    positions, values = positions[order], values[order]
    order = torch.cat([positions[:active].argsort(), positions[active:].argsort() + active])
    tensors[key], tensors[key.replace("indices", "values")] = positions[order], values[order]


def changed_count(tensors: Tensors) -> None:
    tensors[summary_key(tensors)][4] += 1


def exchanged_counts(tensors: Tensors) -> None:
    """K stays what it is."""
    counts = tensors[summary_key(tensors)][4:-1]
    counts[counts.argmax()] -= 1
    counts[counts.argmin()] += 1


def changed_number_of_updates(tensors: Tensors) -> None:
    tensors[summary_key(tensors)][-1] += 1


def missing_summary(tensors: Tensors) -> None:
    del tensors[summary_key(tensors)]


DAMAGES = [
    flipped_value,
    flipped_inactive_value,
    swapped_position,
    changed_count,
    exchanged_counts,
    changed_number_of_updates,
    missing_summary,
]
REFUSAL = r"SHA-256|active entries where|fewer entries|not ascending|no fishdip_summary"


def damaged_folder(good: Path, target: Path, damage: Callable[[Tensors], None] | None) -> Path:
    shutil.copytree(good, target, dirs_exist_ok=True)
    tensors = load_file(good / TENSORS)
    if damage is not None:
        damage(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, target / TENSORS)
    return target
