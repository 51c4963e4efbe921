"""A new mask from scores, and what follows from it: deltas, gradients and the optimizer's state."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .carry_over import carry_over
from .combination import listed
from .distributed import agreed, taken_from_first
from .mask_update import MaskUpdate
from .scoring import Scores
from .selection import top_k
from .state import AdapterState


@torch.no_grad()
def remask(
    state: AdapterState,
    scores: Scores,
    optimizer: Any,
    started: float,
    step: int | None,
    expected_power: int | None,
) -> MaskUpdate:
    """Select, then change everything that follows from it.

    Args:
        state: the adapter, whose K entries with the highest scores become the active ones.
        scores: one tensor per targeted parameter, of its shape; importances become those of trained values in place.
        optimizer: checked already, or None.
        started: when the update began, as time.perf_counter() told.
        step: the optimizer step, for the record.
        expected_power: which power of the scores is a squared gradient, if any.
    """
    vector = state.flat
    hint = None
    if expected_power is not None:
        for delta in state.deltas:  # what is trained is delta / scale; its gradient is scale times the base's
            scores.importance[delta.name].mul_(delta.scale ** (2 / expected_power))
    chosen = agreed(lambda: top_k(scores.importance, vector.numel()))
    positions = taken_from_first(chosen.positions)
    if expected_power is not None:
        expected = (scores.importance[name].flatten()[at].pow(expected_power) for name, at in positions.items())
        hint = torch.cat(list(expected)).to(vector.device)
    change = state.remask(positions)
    if optimizer is not None:
        carry_over(optimizer, vector, change.source, hint)
    done = state.num_updates
    state.num_updates = done + 1
    state.last_update = MaskUpdate(
        step=done if step is None else step,
        example_ids=scores.example_ids,
        losses=scores.losses,
        threshold=chosen.threshold,
        num_active=vector.numel(),
        overlap=change.kept / vector.numel(),
        union_size=state.union_size,
        seconds=time.perf_counter() - started,
    )
    return state.last_update


def ordered_scores(state: AdapterState, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scores of a caller, in the order of the adapter's deltas.

    Raises:
        ValueError: a parameter is missing, unknown or of another shape.
    """
    shapes = {delta.name: delta.shape for delta in state.deltas}
    missing, unknown = sorted(shapes.keys() - scores.keys()), sorted(scores.keys() - shapes.keys())
    if missing or unknown:
        raise ValueError(
            f"scores must have one tensor for each targeted parameter: missing {listed(missing)}, unknown "
            f"{listed(unknown)}."
        )
    for name, shape in shapes.items():
        if not isinstance(scores[name], Tensor) or scores[name].shape != shape or scores[name].is_complex():
            kind = getattr(scores[name], "dtype", "")
            found = f"{type(scores[name]).__name__} {kind} {tuple(getattr(scores[name], 'shape', ()))}"
            raise ValueError(f"the score of {name!r} must be a real tensor of shape {tuple(shape)}, not a {found}.")
    return {name: scores[name] for name in shapes}
