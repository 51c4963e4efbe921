"""A new mask from scores: deltas, gradients and the optimizer's state change with it, in one step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter.atomic import Write, apply_all, assign, repeat_once
from ..adapter.base_parameter import active_views, at_least_float
from ..adapter.combine import listed
from ..adapter.mask_record import MaskUpdate
from ..adapter.state import AdapterState
from ..config import is_count
from ..criteria import criterion_of
from ..distributed import broadcast_from_rank0, raise_on_all_ranks, refuse_sharded
from ..importance.examples import ExampleSource
from ..importance.fisher import scoring_mode
from ..importance.losses import LossFn
from ..importance.scoring import Scores, Scoring, Weights, scores_of
from ..layers.layer import FishDipLayer, layers_of, tuned_parameters, unmerge_all
from ..optim.carry_over import carry_over, check_optimizer, unwrapped
from ..quantization import has_quantized_storage
from ..selection import OF_EXAMPLES, top_k
from .guards import refuse_unfit


def check_update(model: nn.Module, state: AdapterState, optimizer: Any, step: int | None) -> Any:
    """The torch optimizer that trains an adapter, if any; raises ValueError if its mask cannot change."""
    if step is not None and step != 0 and not is_count(step):
        raise ValueError(f"step={step!r} must be an int >= 0, the optimizer steps that were made, or None.")
    criterion_of(state.config.importance)
    state.refuse_sharded()
    for name, (parameter, tensor) in tuned_parameters(model, state.adapter_name).items():
        if not has_quantized_storage(tensor):
            refuse_sharded(name, tensor, parameter.shape)
    if optimizer is None:
        return None
    outermost = unwrapped(optimizer) if state.driver is None else state.driver.around(unwrapped(optimizer))
    stays = state.config.update_interval is None and state.num_updates == 0
    return check_optimizer(outermost, state.flat, stays)


@contextmanager
def active_adapters_merged(model: nn.Module) -> Iterator[None]:
    """Within, the base parameters hold the effective values of the active adapters."""
    layers = list(layers_of(model))
    try:
        for layer in layers:
            layer.merge_active()
        yield
    finally:
        repeat_once(lambda: unmerge_all(layers))


def is_trained(model: nn.Module, state: AdapterState) -> bool:
    """Whether a forward call of the model now trains an adapter: it is active, enabled, not merged nor frozen."""
    layer = next(layers_of(model), None)
    if layer is None or layer.disable_adapters or layer.merged:
        return False
    return state.adapter_name in layer.active_adapters and state.flat.requires_grad


def base_parameters(model: nn.Module, state: AdapterState) -> dict[str, nn.Parameter]:
    """The base parameters that an adapter targets, in its order."""
    found = tuned_parameters(model, state.adapter_name)
    return {delta.name: found[delta.name][1] for delta in state.deltas}  # type: ignore[misc]


def weights_of(model: nn.Module, state: AdapterState) -> Weights:
    """What an importance function is given of the parameters that an adapter targets."""
    tuned = {parameter.name: (layer, name) for layer in layers_of(model) for name, parameter in layer.tuned.items()}

    @torch.no_grad()
    def values(name: str) -> Tensor:
        return effective_values(*tuned[name])

    return Weights(values, {delta.name: delta.scale for delta in state.deltas})


def effective_values(layer: FishDipLayer, name: str) -> Tensor:
    """A copy of the effective values of a parameter, dequantized; float32, or float64 if the base is that."""
    base, deltas = layer.base_values(name), layer.deltas(name)
    if deltas and any(map(len, deltas)):
        return at_least_float(layer.tuned[name].effective(base, deltas, active_views(deltas)))
    return base.to(at_least_float(base[:0]).dtype, copy=True)


def scored_update(
    model: nn.Module,
    state: AdapterState,
    source: ExampleSource | None,
    loss_fn: LossFn | None,
    optimizer: Any,
    started: float,
    step: int | None,
) -> MaskUpdate:
    """Score the parameters by examples of `source`, and change the mask; see `FishDipModel.update_mask`.

    `optimizer` is checked already, or None. Without `source` or `loss_fn`, the importance must need no examples.
    """
    raise_on_all_ranks(lambda: refuse_unfit(layers_of(model), state))
    criterion, weights = criterion_of(state.config.importance), weights_of(model, state)
    if not criterion.needs:
        scores = Scores(scores_of(criterion, weights, {}, count=0), (), ())
    else:
        assert source is not None
        assert loss_fn is not None
        parameters = base_parameters(model, state)
        shapes = {delta.name: delta.shape for delta in state.deltas}
        seed = state.config.seed + state.num_updates
        scoring = Scoring(model, parameters, state.config, source, loss_fn, shapes, seed, weights)
        with active_adapters_merged(model), scoring_mode(model, parameters.values()):
            scores = scoring.scores()
    update = change_mask(state, scores, optimizer, started, step, criterion.expected_power)
    if source is not None:
        source.forget()
    return update


@torch.no_grad()
def change_mask(
    state: AdapterState,
    scores: Scores,
    optimizer: Any,
    started: float,
    step: int | None,
    expected_power: int | None,
    remedy: str = OF_EXAMPLES,
) -> MaskUpdate:
    """Select the K entries with the highest scores and make them the active ones.

    Args:
        scores: one tensor per targeted parameter, of its shape. Importances are scaled in place to those of the trained
            values.
        optimizer: checked already, or None.
        started: when the update began, by time.perf_counter().
        step: the optimizer step, for the record.
        expected_power: the power of a score that is a squared gradient; None if no power of it is.
        remedy: of a score that is not finite.
    """
    if expected_power is not None:
        for delta in state.deltas:  # the gradient of a trained value, delta / scale, is scale times the delta's
            scores.importance[delta.name].mul_(delta.scale ** (2 / expected_power))
    chosen = raise_on_all_ranks(lambda: top_k(scores.importance, state.flat.numel(), remedy))
    positions = broadcast_from_rank0(chosen.positions)

    def prepared() -> tuple[MaskUpdate, list[Write]]:
        expected_sq_grad = None
        if expected_power is not None:
            expected = [scores.importance[name].flatten()[at].pow(expected_power) for name, at in positions.items()]
            expected_sq_grad = torch.cat(expected).to(state.flat.device)
        change = state.change_to(positions)
        writes = state.writes_of(change)
        if optimizer is not None:
            writes += carry_over(optimizer, state.flat, change.source, change.values, expected_sq_grad)
        k = state.flat.numel()
        update = MaskUpdate(
            step=state.num_updates if step is None else step,
            example_ids=scores.example_ids,
            losses=scores.losses,
            threshold=chosen.threshold,
            num_active=k,
            overlap=int((change.source >= 0).sum()) / k,
            support_size=sum(entries.support.numel() for entries in change.entries),
            seconds=time.perf_counter() - started,
        )
        counted = [assign(state, "num_updates", state.num_updates + 1), assign(state, "last_update", update)]
        return update, [*writes, *counted]

    update, writes = raise_on_all_ranks(prepared)
    apply_all(writes)
    return update


class Ordered(Mapping[str, Tensor]):
    """Another mapping's tensors in the order of `names`. They are not held: those of a file are read at each use."""

    def __init__(self, tensors: Mapping[str, Tensor], names: Sequence[str]) -> None:
        self.tensors, self.names = tensors, names

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def ordered_scores(state: AdapterState, scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The scores of a caller in the order of the adapter's deltas.

    Raises:
        ValueError: they do not fit the parameters.
        TypeError: they are no mapping.
    """
    if not isinstance(scores, Mapping):
        raise TypeError(
            f"scores={scores!r} must be a dict from the name of each targeted base parameter, as in mask(), to a "
            "tensor of its shape."
        )
    shapes = {delta.name: delta.shape for delta in state.deltas}
    missing, unknown = sorted(shapes.keys() - scores.keys()), sorted(scores.keys() - shapes.keys())
    if missing or unknown:
        which = f"missing {listed(missing)}, unknown {listed(unknown)}"
        raise ValueError(f"scores must have one tensor for each targeted parameter: {which}.")
    for name, shape in shapes.items():
        score = scores[name]
        if not isinstance(score, Tensor) or score.shape != shape or score.is_complex():
            found = f"{type(score).__name__} {getattr(score, 'dtype', '')} {tuple(getattr(score, 'shape', ()))}"
            raise ValueError(f"the score of {name!r} must be a real tensor of shape {tuple(shape)}, not a {found}.")
    return Ordered(scores, [*shapes])
