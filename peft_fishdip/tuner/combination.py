"""An adapter that is combined from others of the same model."""

from __future__ import annotations

import copy
import zlib
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn

from ..adapter.atomic import repeat_once
from ..adapter.base_parameter import fingerprints
from ..adapter.combine import Combination, density_for, listed
from ..adapter.install import install_sum
from ..fingerprint import described, differences
from ..layers.layer import tuned_parameters
from .injection import discard


@torch.no_grad()
def add_combined(tuner: Any, combination: Combination, adapter_name: str) -> None:
    """Add an adapter to a tuner; see `FishDipModel.add_weighted_adapter`. After an error, nothing was added."""
    states, adapters = tuner._states(), combination.adapters
    combination.check(states, adapter_name)
    owners = owners_of_modules(tuner.model, adapters)
    for name in adapters:
        refuse_other_base(tuner.model, name, tuner.peft_config[name])
    first = states[adapters[0]]
    generator = torch.Generator().manual_seed(first.config.seed + zlib.crc32(adapter_name.encode()))
    total = combination.of([tuner.delta(name) for name in adapters], generator)
    config = copy.deepcopy(tuner.peft_config[adapters[0]])
    config.support_sizes = config.base_fingerprint = None  # no file is to be loaded into the new one
    entries = sum(values.numel() for _, values in total.values())
    if entries < first.flat.numel():
        config.density = density_for(entries, first.num_parameters)
    if owners:
        every = [tuner.peft_config[owner].modules_to_save or [] for owner in dict.fromkeys(owners.values())]
        config.modules_to_save = list(dict.fromkeys(name for names in every for name in names))
    try:
        tuner.peft_config[adapter_name] = config
        tuner.inject_adapter(tuner.model, adapter_name)
        install_sum(tuner._states()[adapter_name], total)
        for wrapper, owner in owners.items():
            wrapper.modules_to_save[adapter_name].load_state_dict(wrapper.modules_to_save[owner].state_dict())
    except BaseException:
        repeat_once(lambda: discard(tuner.model, adapter_name))
        tuner.peft_config.pop(adapter_name, None)
        raise


def owners_of_modules(model: nn.Module, adapters: Any) -> dict[ModulesToSaveWrapper, str]:
    """Which of some adapters has a copy of each module that PEFT trains whole; modules of none of them are left out.

    Raises:
        ValueError: several of them have one of the same module.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            owners = [adapter for adapter in adapters if adapter in module.modules_to_save]
            if len(owners) > 1:
                raise ValueError(
                    f"the adapters {listed(owners)} have each trained {name!r} whole (modules_to_save), and whole "
                    "modules are not combined: leave it to one of them, by training the others without it."
                )
            if owners:
                found[module] = owners[0]
    return found


def refuse_other_base(model: nn.Module, adapter_name: str, config: Any) -> None:
    """Raise ValueError for an adapter that was loaded onto another base than it was trained on."""
    saved = config.expected_fingerprint()
    if saved is None:
        return
    present = fingerprints(tuned_parameters(model, adapter_name))
    harmful = [difference for difference in differences(saved, present) if not difference.harmless]
    if harmful:
        raise ValueError(
            f"adapter {adapter_name!r} was trained on another base model: {described(harmful, len(present))}. Deltas "
            "of different bases cannot be combined; load all of them onto the base that they were trained on "
            f"({config.base_model_name_or_path or 'it has no name'})."
        )
