"""Which adapters can be combined into one, and their combination."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .arithmetic import Row, dropped, elected, intersection_of, trimmed, union_of, weighted_sum
from .state import AdapterState

PRUNING = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Combinations that leave entries out, a share of 1 - density."""
COMBINATIONS = ("linear", "intersection", *PRUNING)
SIGN_METHODS = ("total", "frequency")

Positioned = Mapping[str, tuple[Tensor, Tensor]]
"""Per base parameter the positions (int64, ascending) and values (float32) of a delta, as of `FishDipModel.delta`."""


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


@dataclass(frozen=True)
class Combination:
    """How adapters are combined, as the arguments of [`FishDipModel.add_weighted_adapter`] say.

    Raises:
        ValueError: where `add_weighted_adapter` does.
    """

    adapters: Sequence[str]
    weights: Sequence[float]
    kind: str = "linear"
    density: float | None = None
    majority_sign_method: str = "total"

    def __post_init__(self) -> None:
        if self.kind not in COMBINATIONS:
            raise ValueError(
                f"combination_type={self.kind!r} is unknown; Fish-Dip adapters combine by "
                f"{', '.join(map(repr, COMBINATIONS))}."
            )
        adapters, weights = self.adapters, self.weights
        if isinstance(adapters, str) or not adapters or len(set(adapters)) < len(adapters):
            raise ValueError(
                f"adapters={adapters!r} must be a list of different names, at least one; for several times the same "
                "adapter, give it the sum of the weights."
            )
        if len(weights) != len(adapters) or not all(map(is_finite, weights)):
            raise ValueError(
                f"weights={list(weights)} must be one finite number for each of the {len(adapters)} adapters."
            )
        if self.kind in PRUNING and not (is_finite(self.density) and 0 < self.density <= 1):  # type: ignore[operator]
            raise ValueError(
                f"density={self.density!r}: combination_type={self.kind!r} needs the share of each adapter's entries "
                "that is kept, in (0, 1], such as 0.5."
            )
        if self.kind not in PRUNING and self.density is not None:
            raise ValueError(
                f"density={self.density!r} has no meaning for combination_type={self.kind!r}, which keeps all entries; "
                f"leave it out, or choose one of {', '.join(PRUNING)}."
            )
        if self.majority_sign_method not in SIGN_METHODS:
            raise ValueError(
                f"majority_sign_method={self.majority_sign_method!r} must be one of {', '.join(SIGN_METHODS)}."
            )

    def check(self, states: Mapping[str, AdapterState], adapter_name: str) -> None:
        """Raise ValueError if there are no such adapters, they target other parameters, or the name is taken."""
        if adapter_name in states:
            raise ValueError(f"there is an adapter {adapter_name!r} already; choose another adapter_name.")
        refuse_unknown(self.adapters, states)
        names = [[delta.name for delta in states[name].deltas] for name in self.adapters]
        for adapter, targets in zip(self.adapters, names, strict=True):
            if targets != names[0]:
                raise ValueError(
                    f"adapter {adapter!r} targets other parameters than {self.adapters[0]!r}; only adapters with the "
                    "same targets can be summed into one. To use both at once, activate both: set_adapter([...])."
                )

    def of(self, deltas: Sequence[Positioned], generator: torch.Generator) -> dict[str, Row]:
        """The combined delta per base parameter, in the form of the deltas.

        Args:
            deltas: of the adapters, in their order.
            generator: draws the entries that DARE keeps, adapter by adapter of each parameter in turn.

        Raises:
            ValueError: a value is not finite, or no entry is left.
        """
        combined = {}
        for name in deltas[0]:
            positions, values = self.of_parameter([delta[name] for delta in deltas], generator)
            if not bool(values.isfinite().all()):
                raise ValueError(
                    f"the weighted sum of deltas of {name!r} is not finite: an adapter has diverged, or a weight of "
                    f"{list(self.weights)} is too large."
                )
            combined[name] = (positions, values)
        if not any(values.numel() for _, values in combined.values()):
            if self.kind == "intersection":
                raise ValueError(
                    f"the adapters {listed(self.adapters)} have no entry in common, so their intersection is empty; "
                    "combination_type='linear' takes the entries of all of them."
                )
            raise ValueError(
                f"density={self.density} leaves no entry of the adapters {listed(self.adapters)}; choose a larger one."
            )
        return combined

    def of_parameter(self, rows: Sequence[Row], generator: torch.Generator) -> Row:
        weights = [*map(float, self.weights)]
        if self.kind == "intersection":
            return weighted_sum(rows, weights, intersection_of(rows))
        if self.kind in PRUNING:
            assert self.density is not None
            if not self.kind.startswith("dare"):
                rows = [trimmed(row, self.density) for row in rows]
            else:
                rows = [dropped(row, self.density, generator) for row in rows]
        if self.kind in ("ties", "dare_ties"):
            return elected(rows, weights, self.majority_sign_method)
        return weighted_sum(rows, weights, union_of(rows))


def is_finite(number: object) -> bool:
    """Whether it is a number, of Python, numpy or torch, and neither NaN nor infinite."""
    try:
        return not isinstance(number, (bool, str)) and math.isfinite(number)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def density_for(k: int, num_parameters: int) -> float:
    """A density of which `selection.num_active` makes `k`."""
    density = k / num_parameters
    while math.floor(density * num_parameters) < k:
        density = math.nextafter(density, 2.0)
    return density
