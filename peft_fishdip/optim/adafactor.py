"""Adafactor for sparse deltas: the steps of the paper's recipe on dense masked gradients, at the cost of the mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..config import is_number
from .tensor_stats import DenseStats, SparseStats, sparse_stats

ROW, COLUMN = "exp_avg_sq_row", "exp_avg_sq_col"
OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (lambda x: is_number(x) and 0 < x < math.inf, "a number above 0, such as 1e-2"),
    "eps": (
        lambda x: isinstance(x, (tuple, list)) and len(x) == 2 and all(map(is_number, x)) and x[0] > 0 <= x[1],
        "two numbers, the first above 0 and the second at least 0, such as (1e-30, 1e-3)",
    ),
    "clip_threshold": (lambda x: is_number(x) and x > 0, "a number above 0, such as 1.0"),
    "decay_rate": (lambda x: is_number(x) and -1 <= x < 0, "a number in [-1, 0), such as -0.8"),
    "beta1": (lambda x: x is None or (is_number(x) and 0 <= x < 1), "None or a number in [0, 1)"),
    "weight_decay": (lambda x: is_number(x) and 0 <= x < math.inf, "a number of at least 0"),
    "scale_parameter": (lambda x: isinstance(x, bool), "True or False"),
}


class SparseAdafactor(Optimizer):
    """Adafactor (Shazeer & Stern, 2018; Algorithms 4 and 5) for a model with Fish-Dip adapters.

    Each active entry moves as if Adafactor were given the dense gradients of the base parameters, zero outside the
    mask: the row and column means of squared gradients, the RMS of the update and the RMS of the weight (base plus this
    adapter's delta) are those of whole tensors. The paper's code trains in this way, with the defaults here, a linear
    schedule and `max_grad_norm=1.0`. Adafactor on the vector of deltas alone would move them 200 to 500 times less.

    A step costs O(active entries + rows + columns), and once per mask O(base parameters). The state is one float64 per
    row and column of each tensor, which a new mask leaves as it is, and 12 bytes per active entry. Parameters that are
    trained as a whole (`modules_to_save`) get ordinary Adafactor.

    ```python
    optimizer = SparseAdafactor(model)      # in your own loop: model.base_model.update_mask(..., optimizer=optimizer)
    Trainer(model, args, ..., optimizers=(optimizer, None), callbacks=[FishDipCallback()])
    ```

    The steps do not depend on `delta_scale`. The choice of the mask does, and so does gradient clipping, which uses the
    norm of the scaled gradients. Each step is relative to the size of its tensor, so `delta_scale="rms"` ranks entries
    by how much these steps can change the loss.

    Save `state_dict()`: a pickle or deep copy of the optimizer does not contain the model, and cannot take steps.

    Args:
        model: a model with at least one Fish-Dip adapter.
        lr: the RMS of a step over a whole tensor is at most `lr * clip_threshold` times the RMS of the tensor.
        eps: the number added to squared gradients, and the smallest RMS that a tensor counts as.
        clip_threshold: largest RMS of an update before it is multiplied by the learning rate.
        decay_rate: squared gradients are averaged with beta2 = 1 - step ** decay_rate.
        beta1: decay of an average of the updates, if any: one more float per active entry, zero for entries that are
            new to the mask.
        weight_decay: share of the delta (not of the weight) that is subtracted per step, times the learning rate.
        scale_parameter: whether the learning rate of a tensor is `lr` times its RMS.
        params: parameters or parameter groups, with the adapters' vectors; by default all that require gradients.
            An adapter that is added later needs `add_param_group`.

    Raises:
        ValueError: an option is unknown or out of its range, or no adapter's vector is among the parameters.
        TypeError: `model` is not a module.
    """

    state_of_any_mask = (ROW, COLUMN)  # not re-indexed when the mask changes
    model: nn.Module | None = None  # in a pickle or deep copy, which torch makes without it

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-2,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        params: Iterable[Any] | None = None,
        **unknown: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model is a {type(model).__name__}; give SparseAdafactor the model itself, whose weights it needs, "
                "and parameter groups, if any, as params=..."
            )
        values = (lr, eps, clip_threshold, decay_rate, beta1, weight_decay, scale_parameter)
        defaults = dict(zip(OPTIONS, values, strict=True))
        check_options({**defaults, **unknown})
        self.model = model
        self.stats: dict[nn.Parameter, SparseStats | DenseStats] = {}
        super().__init__([p for p in model.parameters() if p.requires_grad] if params is None else params, defaults)
        if not any(isinstance(stats, SparseStats) for stats in self.stats.values()):
            raise ValueError(
                f"no vector of a Fish-Dip adapter is among the trained parameters of {type(model).__name__}; make the "
                "optimizer after get_peft_model(model, FishDipConfig(...)), with the adapter active."
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As for any optimizer, with the options checked."""
        check_options({name: value for name, value in param_group.items() if name not in ("params", "param_names")})
        sparse = sparse_stats(self._require_model())
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            self.stats[parameter] = sparse.get(parameter) or DenseStats(parameter)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As for any optimizer, but the state keeps its dtype, whatever that of the parameters.

        Raises:
            ValueError: the state belongs to another optimizer or another model; nothing has changed then.
            RuntimeError: this is a copy without a model.
        """
        self._require_model()
        tensors = []
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=False):
            for parameter, index in zip(group["params"], saved["params"], strict=False):
                state = state_dict["state"].get(index, {})
                check_state(state, saved, self.stats[parameter].sizes, parameter)
                tensors += [(parameter, name, value) for name, value in state.items() if isinstance(value, Tensor)]
        super().load_state_dict(state_dict)
        for parameter, name, value in tensors:
            self.state[parameter][name] = value.to(parameter.device, copy=True)

    def _require_model(self) -> nn.Module:
        if self.model is None:
            raise RuntimeError(
                "this SparseAdafactor is a pickle or deep copy, which does not contain the model; make "
                "SparseAdafactor(model) and give it the copy's state: load_state_dict(copy.state_dict())."
            )
        return self.model

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Raises:
            ValueError: an adapter is merged, or its vector is not the one that this optimizer was made for; nothing has
                changed then.
            RuntimeError: this is a copy without a model.
        """
        self._require_model()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for parameter, _ in moving:  # raises before anything changes
            self.stats[parameter].prepare(parameter)
        for parameter, group in moving:
            self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        """One step of one parameter, in float64; a number per tensor has shape (tensors,), or () in `DenseStats`."""
        stats = self.stats[parameter]
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name, size in zip((ROW, COLUMN), stats.sizes, strict=True):
                state[name] = torch.zeros(size, dtype=torch.float64, device=parameter.device)
        state["step"] += 1
        beta2 = 1.0 - state["step"] ** group["decay_rate"]
        gradient = gradient.double() / stats.broadcast_to_entries(stats.scale)  # of the delta, not of the scaled value
        for name, mean in zip((ROW, COLUMN), stats.means(gradient.square()), strict=True):
            state[name].mul_(beta2).add_(mean + group["eps"][0], alpha=1.0 - beta2)
        update = gradient * stats.inverse_roots(state[ROW], state[COLUMN])
        length = (stats.sums(update.square()) / stats.numel).sqrt()
        rate = torch.full_like(length, group["lr"])
        values = parameter.double()
        if group["scale_parameter"]:
            rate *= (stats.weight_squares(values) / stats.numel).sqrt().clamp(min=group["eps"][1])
        update *= stats.broadcast_to_entries(rate / (length / group["clip_threshold"]).clamp(min=1.0) / stats.scale)
        if group["beta1"] is not None:
            average = state.setdefault("exp_avg", torch.zeros_like(parameter))
            update = average.mul_(group["beta1"]).add_(update, alpha=1.0 - group["beta1"])
        if group["weight_decay"]:
            values *= 1.0 - group["weight_decay"] * stats.broadcast_to_entries(rate)
        parameter.copy_(values - update)


def check_options(options: dict[str, Any]) -> None:
    """Raise a ValueError that names an option which is unknown or out of its range."""
    for name, value in options.items():
        if name == "initial_lr":
            continue  # LR schedulers add it to groups
        if name not in OPTIONS:
            raise ValueError(
                f"{name}={value!r}: SparseAdafactor has no such option, only {', '.join(OPTIONS)}; to change the rate "
                "from step to step, use an LR scheduler."
            )
        valid, meaning = OPTIONS[name]
        if not valid(value):
            raise ValueError(f"{name}={value!r} must be {meaning}.")


def check_state(
    state: dict[str, Any], options: dict[str, Any], sizes: tuple[int, int], parameter: nn.Parameter
) -> None:
    """Raise if a parameter's saved state and group do not fit its present numbers of rows and columns."""
    needed = {ROW: (sizes[0],), COLUMN: (sizes[1],)} if state else {}
    allowed = {"exp_avg": tuple(parameter.shape), **needed}
    found = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
    wrong = [name for name in [*needed, *found] if found.get(name) != allowed.get(name)]
    faults = [f"{name!r} has shape {found.get(name)}, not {allowed.get(name)}" for name in wrong]
    faults += [f"it has no option {name!r}" for name in OPTIONS if name not in options]
    if faults:
        raise ValueError(
            f"this state does not fit: {faults[0]}; load one that a SparseAdafactor saved for the same model and "
            "adapter."
        )
