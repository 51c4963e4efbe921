"""Adafactor on sparse deltas: what the paper's recipe does with dense masked gradients, at the cost of the mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..config import is_number
from .tensor_stats import Masked, Whole, masked_places

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

    It moves each active entry as Adafactor would, had it been given the base parameters' dense gradients, zero outside
    of the mask: row and column means of squared gradients, the RMS of the update and that of the weight (base + this
    adapter's delta) are those of whole tensors. So did the paper's code train, with the defaults here, a linear
    schedule and `max_grad_norm=1.0`. Adafactor on the vector of deltas alone would move them 200 to 500 times less.

    A step costs O(active entries + rows + columns), and O(base parameters) once per mask. Kept are one float64 per row
    and column of each tensor, which do not depend on the mask and outlive it, and 12 bytes per active entry. Parameters
    that are trained whole (`modules_to_save`) get ordinary Adafactor.

    ```python
    optimizer = SparseAdafactor(model)      # in your own loop: model.base_model.update_mask(..., optimizer=optimizer)
    Trainer(model, args, ..., optimizers=(optimizer, None), callbacks=[FishDipCallback()])
    ```

    Its steps are the same with any `delta_scale`; the mask is not, nor clipping by norm, which sees scaled gradients.
    It moves each tensor by a share of its size, so `delta_scale="rms"` chooses the mask by what its steps can change.

    Args:
        model: has one Fish-Dip adapter at least.
        lr: the RMS of a step over a whole tensor is at most `lr * clip_threshold` of that of the tensor.
        eps: what is added to squared gradients, and the least RMS of a tensor.
        clip_threshold: largest RMS of an update, before it is multiplied by the rate.
        decay_rate: squared gradients are averaged with beta2 = 1 - step ** decay_rate.
        beta1: average updates, too: one float more per active entry, zero for those that are new to the mask.
        weight_decay: share of the delta (not of the weight) that is taken off per step, times the rate.
        scale_parameter: the rate is `lr` times the RMS of each tensor.
        params: parameters or groups of them, adapters' vectors included; all that require gradients if not given.
            An adapter that is added later needs `add_param_group`.

    Raises:
        ValueError: an option is unknown or out of its range, or no adapter's vector is among the parameters.
        TypeError: `model` is no module.
    """

    state_of_any_mask = (ROW, COLUMN)  # not to be re-indexed when the mask changes

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
        self.places: dict[nn.Parameter, Masked | Whole] = {}
        super().__init__([p for p in model.parameters() if p.requires_grad] if params is None else params, defaults)
        if not any(isinstance(place, Masked) for place in self.places.values()):
            raise ValueError(
                f"no vector of a Fish-Dip adapter is among the trained parameters of {type(model).__name__}; make the "
                "optimizer after get_peft_model(model, FishDipConfig(...)), with the adapter active."
            )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"model": self.model, "places": self.places}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        check_options({name: value for name, value in param_group.items() if name not in ("params", "param_names")})
        super().add_param_group(param_group)
        masked = masked_places(self.model)
        for parameter in self.param_groups[-1]["params"]:
            self.places[parameter] = masked.get(parameter) or Whole(parameter)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As for any optimizer, but the state keeps its precision, whatever that of the parameters.

        Raises:
            ValueError: the state is of another optimizer or for another model; nothing has changed then.
        """
        tensors = []
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=False):
            for parameter, index in zip(group["params"], saved["params"], strict=False):
                state = state_dict["state"].get(index, {})
                check_state(state, saved, self.places[parameter].sizes, parameter)
                tensors += [(parameter, name, value) for name, value in state.items() if isinstance(value, Tensor)]
        super().load_state_dict(state_dict)
        for parameter, name, value in tensors:
            self.state[parameter][name] = value.to(parameter.device, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move all parameters that have a gradient.

        Raises:
            ValueError: an adapter is merged, or its vector is not the one that this optimizer was made for.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for parameter, _ in moving:  # what can fail comes first
            self.places[parameter].look_up(parameter)
        for parameter, group in moving:
            self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        """One step of one parameter, in float64; figures per tensor are of shape (tensors,), or () for a whole one."""
        place = self.places[parameter]
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name, size in zip((ROW, COLUMN), place.sizes, strict=True):
                state[name] = torch.zeros(size, dtype=torch.float64, device=parameter.device)
        state["step"] += 1
        beta2 = 1.0 - state["step"] ** group["decay_rate"]
        gradient = gradient.double() / place.broadcast_to_entries(place.scale)  # of the delta itself
        for name, mean in zip((ROW, COLUMN), place.means(gradient.square()), strict=True):
            state[name].mul_(beta2).add_(mean + group["eps"][0], alpha=1.0 - beta2)
        update = gradient * place.inverse_roots(state[ROW], state[COLUMN])
        length = (place.sums(update.square()) / place.numel).sqrt()
        rate = torch.full_like(length, group["lr"])
        values = parameter.double()
        if group["scale_parameter"]:
            rate *= (place.weight_squares(values) / place.numel).sqrt().clamp(min=group["eps"][1])
        update *= place.broadcast_to_entries(rate / (length / group["clip_threshold"]).clamp(min=1.0) / place.scale)
        if group["beta1"] is not None:
            average = state.setdefault("exp_avg", torch.zeros_like(parameter))
            update = average.mul_(group["beta1"]).add_(update, alpha=1.0 - group["beta1"])
        if group["weight_decay"]:
            values *= 1.0 - group["weight_decay"] * place.broadcast_to_entries(rate)
        parameter.copy_(values - update)


def check_options(options: dict[str, Any]) -> None:
    """Make sure that options are known and in their ranges.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name, value in options.items():
        if name == "initial_lr":
            continue  # LR schedulers put it into groups
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
    """See [`SparseAdafactor.load_state_dict`]."""
    needed = {ROW: (sizes[0],), COLUMN: (sizes[1],)} if state else {}
    allowed = {"exp_avg": tuple(parameter.shape), **needed}
    found = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
    wrong = [name for name in [*needed, *found] if found.get(name) != allowed.get(name)]
    missing = [name for name in OPTIONS if name not in options]
    if wrong or missing:
        what = f"{wrong[0]!r} has shape {found.get(wrong[0])}, not {allowed.get(wrong[0])}" if wrong else missing[0]
        raise ValueError(
            f"this state does not fit: {what if wrong else f'it has no option {what!r}'}; load one that a "
            "SparseAdafactor saved for the same model and adapter."
        )
