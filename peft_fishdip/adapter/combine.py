"""Which adapters can be summed into one, and their sum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from .state import AdapterState


def listed(names: Iterable[str]) -> str:
    """The first few of some names, for a message."""
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(repr(name) for name in names[:5]) or "none") + more


def refuse_unknown(names: str | Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError if one of these is no adapter."""
    unknown = [name for name in ([names] if isinstance(names, str) else names) if name not in known]
    if unknown:
        raise ValueError(f"there is no adapter {listed(unknown)}; there are {listed(known)}.")


def check_combination(
    states: Mapping[str, AdapterState],
    adapters: Sequence[str],
    weights: Sequence[float],
    adapter_name: str,
    combination_type: str,
) -> None:
    """Raise ValueError where [`FishDipModel.add_weighted_adapter`] does."""
    if combination_type != "linear":
        raise ValueError(f"combination_type={combination_type!r} is unknown; Fish-Dip adapters combine by 'linear'.")
    if adapter_name in states:
        raise ValueError(f"there is an adapter {adapter_name!r} already; choose another adapter_name.")
    if isinstance(adapters, str) or not adapters or len(set(adapters)) < len(adapters):
        raise ValueError(f"adapters={adapters!r} must be a list of different names, at least one.")
    refuse_unknown(adapters, states)
    if len(weights) != len(adapters) or not all(math.isfinite(weight) for weight in weights):
        raise ValueError(f"weights={list(weights)} must be one finite number for each of the {len(adapters)} adapters.")
    names = [[delta.name for delta in states[name].deltas] for name in adapters]
    for adapter, targets in zip(adapters, names, strict=True):
        if targets != names[0]:
            raise ValueError(
                f"adapter {adapter!r} targets other parameters than {adapters[0]!r}; only adapters with the same "
                "targets can be summed into one. To use both at once, activate both: set_adapter([...])."
            )


Positioned = Mapping[str, tuple[Tensor, Tensor]]
"""Per base parameter the positions (int64, ascending) and values (float32) of a delta, as of `FishDipModel.delta`."""


def weighted_sum(deltas: Sequence[Positioned], weights: Sequence[float]) -> dict[str, tuple[Tensor, Tensor]]:
    """Per base parameter the positions of all deltas and the weighted sums there, in the form of the deltas.

    Raises:
        ValueError: a sum is not finite.
    """
    sums = {}
    for name in deltas[0]:
        positions = torch.cat([delta[name][0] for delta in deltas]).unique()
        values = torch.zeros(positions.numel(), dtype=torch.float32)
        for delta, weight in zip(deltas, weights, strict=True):
            values.index_add_(0, torch.searchsorted(positions, delta[name][0]), delta[name][1] * weight)
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"the weighted sum of deltas of {name!r} is not finite: an adapter has diverged, or a weight of "
                f"{list(weights)} is too large."
            )
        sums[name] = (positions, values)
    return sums
