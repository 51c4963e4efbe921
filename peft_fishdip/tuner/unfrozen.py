"""Warns of base parameters that were made trainable, but get no gradient in a layer of an adapter."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from ..adapter.combine import listed
from ..layers.layer import FishDipLayer, layers_of
from ..private import own_parameter
from ..stand_in import owner

SEEN = "_fishdip_unfrozen"
"""Attribute of a model: that its first forward pass of training has been looked at."""


def warn_of_unfrozen(model: nn.Module, *_: object) -> None:
    """A forward pre-hook: warn, once in training, of base parameters that require a gradient and will get none."""
    if torch.compiler.is_compiling() or SEEN in model.__dict__ or not (model.training and torch.is_grad_enabled()):
        return
    model.__dict__[SEEN] = True
    names = dict.fromkeys(name for layer in layers_of(model) for name in unfrozen(layer))
    if names:
        warnings.warn(
            f"requires_grad=True of {listed(names)} has no effect: a Fish-Dip adapter tunes these parameters, and "
            "gradients go to its deltas alone. To train them whole, add the adapter with their modules in "
            "modules_to_save=[...], or in exclude_modules=[...] and unfreeze them.",
            UserWarning,
            stacklevel=2,
        )


def unfrozen(layer: FishDipLayer) -> list[str]:
    """The names of tuned parameters of a layer that require a gradient themselves and are not merged."""
    found = []
    for name, tuned in layer.tuned.items():
        module, leaf = owner(layer.base_layer, name)
        parameter = own_parameter(module, leaf)
        if parameter is not None and parameter.requires_grad and not tuned.merged_adapters:
            found.append(tuned.name)
    return found
