"""Norms keep nothing but their input for backward, and what they give back is bitwise what it would be otherwise."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from peft_fishdip.layers.layer import FishDipLayer
from peft_fishdip.layers.norm import FishDipNorm, is_norm
from peft_fishdip.layers.recompute import source_of

from ..support.models import WIDTH, flat_of, ignoring_unscored_mask, randomise, tuned

NORMS: dict[str, Any] = {
    "t5": lambda: T5LayerNorm(WIDTH),
    "llama": lambda: LlamaRMSNorm(WIDTH),
    "layer": lambda: nn.LayerNorm(WIDTH),
    "layer without bias": lambda: nn.LayerNorm(WIDTH, bias=False),
    "rms": lambda: nn.RMSNorm(WIDTH),
}


class Readers(nn.Module):
    """A norm whose output three linear layers read, as queries, keys and values are made."""

    def __init__(self, norm: nn.Module, between: Any = None) -> None:
        super().__init__()
        self.norm = norm
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.between = between
        self.output: Any = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        self.output = weakref.ref(y)
        if self.between is not None:
            y = self.between(y)
        return self.q(y) * self.k(y).sigmoid() + self.v(y)


def readers(norm: str, between: Any = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    base = Readers(NORMS[norm](), between).to(dtype)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return base


def adapted(base: nn.Module, **settings: Any) -> Any:
    model = tuned(base, **{"density": 0.4, **settings})
    randomise(model, seed=1)
    return model


def kept(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, FishDipNorm)]


def gradients(model: Any, x: Tensor, autocast: bool = False, times: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and gradients of the input and of the trainable vector."""
    leaf = x.clone().requires_grad_()
    flat_of(model).grad = None
    with ignoring_unscored_mask():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = model(leaf)
        for time in range(times):
            out.float().square().sum().backward(retain_graph=time + 1 < times)
    return out.detach(), leaf.grad, flat_of(model).grad.clone()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("way", ["float32", "bfloat16", "autocast"])
def test_bits_are_those_of_a_norm_that_keeps_everything(
    norm: str, way: str, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.bfloat16 if way == "bfloat16" else torch.float32
    model = adapted(readers(norm, dtype=dtype))
    assert kept(model)
    found = gradients(model, inputs.to(dtype), way == "autocast")
    monkeypatch.setattr(FishDipNorm, "tuned_forward", FishDipLayer.tuned_forward)
    expected = gradients(model, inputs.to(dtype), way == "autocast")
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert found[2].any()


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_are_those_of_dense_weights(norm: str, inputs: Tensor) -> None:
    base = readers(norm).double()
    dense = copy.deepcopy(base)
    model = adapted(base)
    flat_of(model).data = flat_of(model).data.double()
    delta = model.base_model.delta()
    for name, parameter in dense.named_parameters():
        positions, values = delta[name]
        parameter.data.view(-1)[positions] += values
    leaf = inputs.double().requires_grad_()
    dense(leaf).square().sum().backward()
    out, grad_x, grad_flat = gradients(model, inputs.double())
    torch.testing.assert_close(out, dense(leaf).detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad_x, leaf.grad, rtol=1e-5, atol=1e-6)  # T5 takes the variance in float32
    parameters = dict(dense.named_parameters())
    mask = model.base_model.mask()
    expected = torch.cat([parameters[name].grad.view(-1)[positions] for name, positions in mask.items()])
    torch.testing.assert_close(grad_flat, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_output_of_a_norm_is_not_kept_for_backward(norm: str, inputs: Tensor) -> None:
    model = adapted(readers(norm))
    with ignoring_unscored_mask():
        out = model(inputs.clone().requires_grad_())
        gc.collect()
        assert model.base_model.model.output() is None
        out.sum().backward()
    assert flat_of(model).grad.any()


@pytest.mark.parametrize("excluded", ["q", "norm"])
def test_the_output_of_a_norm_is_kept_where_another_module_needs_it(excluded: str, inputs: Tensor) -> None:
    """A norm that is not tuned, or a linear layer that is not, changes nothing in what the others get."""
    model = adapted(readers("t5"), exclude_modules=[excluded])
    found = gradients(model, inputs)
    expected = gradients(adapted(readers("t5", between=Tensor.clone), exclude_modules=[excluded]), inputs)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_an_output_that_was_changed_in_place_is_not_recomputed(inputs: Tensor) -> None:
    found = gradients(adapted(readers("t5", between=lambda y: y.mul_(3.0).add_(1.0))), inputs)
    expected = gradients(adapted(readers("t5", between=lambda y: y * 3.0 + 1.0)), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_of_two_backward_passes_add_up(inputs: Tensor) -> None:
    model = adapted(readers("t5"))
    once, twice = gradients(model, inputs), gradients(model, inputs, times=2)
    torch.testing.assert_close(twice[2], 2 * once[2])
    torch.testing.assert_close(twice[1], 2 * once[1])


def test_a_recomputed_output_is_dropped_after_its_last_use(inputs: Tensor) -> None:
    model = adapted(readers("t5"))
    leaf = inputs.clone().requires_grad_()
    outputs = []
    handle = kept(model)[0].register_forward_hook(lambda _, args, output: outputs.append(source_of(output).recompute))
    with ignoring_unscored_mask():
        model(leaf).sum().backward()
    handle.remove()
    assert outputs[0].made is None
    assert outputs[0].users == 0


def test_a_hook_on_the_wrapped_norm_is_called_once(inputs: Tensor) -> None:
    model = adapted(readers("t5"))
    expected = gradients(model, inputs)
    calls = []
    kept(model)[0].base_layer.register_forward_hook(lambda *_: calls.append(1))
    found = gradients(model, inputs)
    assert calls == [1]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_without_gradients_nothing_is_kept_for_recomputing(inputs: Tensor) -> None:
    model = adapted(readers("t5"))
    outputs = []
    kept(model)[0].register_forward_hook(lambda _, args, output: outputs.append(source_of(output)))
    with torch.no_grad():
        model(inputs)
    assert outputs == [None]


@pytest.mark.parametrize(
    ("module", "expected"),
    [(make(), True) for make in NORMS.values()]
    + [
        (nn.BatchNorm1d(4), False),
        (nn.GroupNorm(2, 4), False),
        (nn.Linear(4, 4), False),
        (nn.LayerNorm((2, 4)), False),
    ],
)
def test_which_modules_are_norms(module: nn.Module, expected: bool) -> None:
    assert is_norm(module) is expected
