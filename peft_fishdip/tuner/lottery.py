"""Lottery-ticket sparse fine-tuning (Ansell et al., ACL 2022): the mask of the entries that full fine-tuning moves
most."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..adapter.atomic import repeat_once
from ..adapter.combine import listed
from ..adapter.initial import Target
from ..config import FishDipConfig
from ..distributed import raise_on_all_ranks
from ..quantization import has_quantized_storage
from ..selection import num_active
from .base_copy import BaseCopy, SavedTensors
from .targets import find_targets, with_linear_names


def lottery_mask(
    model: nn.Module,
    train_fn: Callable[[Any], object],
    density: float | FishDipConfig = 0.01,
    *,
    adapter_name: str = "default",
    folder: str | os.PathLike[str] | None = None,
) -> Any:
    """Fine-tune a model in full, put it back, and add an adapter whose mask is the K entries that moved most.

    The second phase, which trains these, is yours, most often with the same function:

    ```python
    model = lottery_mask(base, train, FishDipConfig(task_type="TOKEN_CLS", density=0.05))
    train(model)
    ```

    It takes the place of `get_peft_model`. The base weights, buffers, `requires_grad` and modes are bitwise what they
    were when this returns, and when `train_fn` raises or is interrupted; gradients are gone. All deltas are zero and
    the mask is fixed: `update_interval` is None in the adapter's config. A tied parameter is one parameter. One that
    was frozen stays so, and its entries are chosen by nothing. What the config does not target moves in the first phase
    too, modules_to_save and a new classifier included, and is put back: the second phase trains PEFT's copy of such a
    module from its first values.

    Memory: the first phase is whatever `train_fn` takes. Besides, no more than two float32 tensors of one parameter's
    shape are in memory; on disk are a copy of the model, and 4 bytes for each targeted entry.

    Args:
        model: a plain model, without adapters. On a GPU or not, as for `get_peft_model`.
        train_fn: is called once with `model` and trains its parameters in place, in any way. In the paper both phases
            have equal numbers of steps in language modelling; an L1 penalty on the change is its affair.
        density: K / N, or the whole config of the adapter. K is chosen over all targeted parameters together, by the
            absolute change in float32, as the paper has it.
        adapter_name: of the adapter.
        folder: where the files are made, which are deleted at the end; by default where Python has temporary files.

    Returns:
        The PeftModel. `model.base_model.last_update()` has the figures of the mask; its threshold is the smallest
        change in it.

    Raises:
        ValueError: the model has adapters already, the config targets nothing or quantized or no trainable parameters,
            fewer than K entries have moved, a change is not finite, or `train_fn` has replaced parameters.
    """
    config = copy.deepcopy(density) if isinstance(density, FishDipConfig) else FishDipConfig(density=density)
    config.update_interval, config.auto_update, config.init_weights = None, False, True
    config.support_sizes = config.base_fingerprint = None
    targets = raise_on_all_ranks(lambda: checked_targets(model, config))
    k = num_active(config.density, sum(target.numel for target in targets))
    names = {target.name: name_in(model, target) for target in targets}
    with tempfile.TemporaryDirectory(dir=folder, prefix="fishdip-lottery-") as place:
        before = BaseCopy(model, Path(place) / "base")
        changes = SavedTensors(Path(place) / "changes")
        try:
            train_fn(model)
            moved = raise_on_all_ranks(lambda: write_changes(model, names, before.saved, changes))
        finally:
            repeat_once(before.restore)
        if moved < k:
            raise ValueError(
                f"training moved {moved} of the targeted entries, and density={config.density} needs {k}: train "
                "longer, choose a lower density, or unfreeze more parameters."
            )
        tuned: Any = get_peft_model(model, config, adapter_name)
        tuned.base_model.set_mask(changes, adapter_name=adapter_name)
    return tuned


def checked_targets(model: nn.Module, config: FishDipConfig) -> list[Target]:
    """What a config selects; ValueError where `lottery_mask` raises one before it trains."""
    if isinstance(model, PeftModel) or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError(
            f"lottery_mask fine-tunes a plain model in full, and this {type(model).__name__} has adapters: call it in "
            "place of get_peft_model, or with what model.unload() or model.merge_and_unload() returns."
        )
    targets = find_targets(model, with_linear_names(copy.copy(config), model))
    if not targets:
        raise ValueError(f"target_modules={config.target_modules!r} selects no parameter of {type(model).__name__}.")
    quantized = [target.name for target in targets if has_quantized_storage(target.tensor)]
    if quantized:
        raise ValueError(
            f"{listed(quantized)} are quantized and cannot be fine-tuned in full: load the base without quantization, "
            "or leave them out with exclude_modules."
        )
    if not any(target.tensor.requires_grad for target in targets):
        raise ValueError(
            f"all {len(targets)} targeted parameters are frozen (requires_grad=False), so that none can move: unfreeze "
            "those that full fine-tuning shall train."
        )
    return targets


def name_in(model: nn.Module, target: Target) -> str:
    """The name that a target's tensor has among the parameters of its model."""
    return next(name for name, parameter in model.named_parameters() if parameter is target.tensor)


@torch.no_grad()
def write_changes(model: nn.Module, names: Mapping[str, str], before: SavedTensors, changes: SavedTensors) -> int:
    """Write the absolute change of each target, float32, and count the entries that have moved.

    Args:
        names: by the name of a target the name of its parameter in the model.
    """
    parameters, moved = dict(model.named_parameters()), 0
    for target, name in names.items():
        base = before[name]
        if name not in parameters or parameters[name].shape != base.shape:
            continue  # restoring the model will raise
        wide = torch.promote_types(base.dtype, torch.float32)
        change = (parameters[name].detach().cpu().to(wide) - base.to(wide)).abs_().float()
        if not bool(change.isfinite().all()):
            bad = int((~change.isfinite()).flatten().nonzero()[0])
            raise ValueError(
                f"after training {name!r} is not finite at flat position {bad}: training has diverged; lower the "
                "learning rate."
            )
        moved += int(change.count_nonzero())
        changes.write(target, change)
    return moved
