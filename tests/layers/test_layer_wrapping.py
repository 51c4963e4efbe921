"""What a layer is to the module that it wraps, and what cannot be wrapped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peft_fishdip import FishDipLayer
from peft_fishdip.adapter import base_parameter

from ..support.models import UNSCORED, tuned

pytestmark = pytest.mark.filterwarnings(UNSCORED)


def test_a_layer_has_the_attributes_of_the_module_it_wraps() -> None:
    model = tuned(nn.Sequential(nn.Embedding(5, 3, padding_idx=1), nn.Linear(3, 4), nn.LayerNorm(4)), density=0.5)
    embedding, linear, norm = model.base_model.model
    assert all(isinstance(layer, FishDipLayer) for layer in (embedding, linear, norm))
    assert (embedding.num_embeddings, embedding.padding_idx, linear.in_features, norm.eps) == (5, 1, 3, 1e-5)
    assert isinstance(linear.weight, nn.Parameter)
    assert torch.equal(linear.weight, linear.base_layer.weight)
    assert not hasattr(linear, "nothing_of_the_kind")
    assert "fishdip.FishDipLinear" in repr(linear)
    with pytest.raises(RuntimeError, match="expected an input of dtype"):
        linear(torch.zeros(1, 3, dtype=torch.float16))


def test_an_embedding_that_rewrites_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"embedding '0' has max_norm=1.0 and rewrites its own weight; exclude it"):
        tuned(nn.Sequential(nn.Embedding(4, 4, max_norm=1.0)), density=0.5)


def test_parameters_outside_of_modules_are_named_in_a_warning() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.ones(3))
            self.extra = nn.ParameterList([nn.Parameter(torch.ones(2))])
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) * self.gate

    with pytest.warns(UserWarning, match=r"the parameters extra\.0, gate belong to the model itself or to a list"):
        model = tuned(Root(), density=0.5)
    assert list(model.base_model.mask()) == ["linear.weight", "linear.bias"]


def test_a_weight_that_an_interrupt_left_modified_is_restored_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tuned(nn.Sequential(nn.Linear(8, 8, bias=False)), density=0.5, init_weights=False)
    weight = model.base_model.model[0].base_layer.weight
    before, x = weight.detach().clone(), torch.randn(3, 8)
    real, calls = base_parameter.write, []

    def interrupted(*args: Any) -> None:
        calls.append(0)
        if len(calls) == 2:  # the first one puts the effective values in place
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(base_parameter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model(x)
    assert not torch.equal(weight, before)
    expected = model(x)
    assert torch.equal(weight, before)
    monkeypatch.undo()
    assert torch.equal(model(x), expected)
