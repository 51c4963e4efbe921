"""Adapters to load and to load into, and all that two of them must have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peft_fishdip import tuner_of

from ...support.models import bert_classifier, bits, classifier_examples, randomise, tuned


def trained(build: Callable[[], Any] = bert_classifier, first: int = 0, **settings: Any) -> Any:
    """An adapter that has been through three random masks, with inactive entries and random deltas."""
    base = build()
    shapes = {name: tensor.shape for name, tensor in base.named_parameters()}
    model = tuned(base, **settings)
    generator = torch.Generator().manual_seed(first)
    for number in range(3):
        scores = {name: torch.rand(shapes[name], generator=generator) for name in model.base_model.mask()}
        model.base_model.set_mask(scores)
        randomise(model, seed=first + number)
    return model


def receiver() -> Any:
    """A model that has an adapter with other mask, deltas and number of updates."""
    model = trained(first=50, seed=4)
    model.base_model.update_mask(classifier_examples(3))
    return model.eval()


def everything(model: nn.Module) -> dict[str, Tensor]:
    """The bits of all that a model is: base, vector, positions, deltas, and numbers of active entries and updates."""
    return {key: bits(tensor) for key, tensor in model.state_dict().items()}


def assert_same_everything(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


def adapter_bits(tuner: Any, adapter: str | None = None) -> dict[str, Tensor]:
    """Of the mask and the deltas."""
    found = {f"{name} mask": bits(positions) for name, positions in tuner.mask(adapter).items()}
    for name, (positions, values) in tuner.delta(adapter).items():
        found |= {f"{name} support": bits(positions), f"{name} delta": bits(values)}
    return found


def assert_same_adapter(model: nn.Module, other: nn.Module, adapter: str | None = None) -> None:
    assert_same_everything(adapter_bits(tuner_of(model), adapter), adapter_bits(tuner_of(other)))
