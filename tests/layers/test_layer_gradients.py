"""Gradients stay right under checkpointing, autocast, changes in place, merging and views."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..support.models import FAMILIES, UNSCORED, enable_checkpointing, flat_of, padded, random_scores, tuned

pytestmark = pytest.mark.filterwarnings(UNSCORED)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_gives_the_same_gradient(family: str, reentrant: bool) -> None:
    build, make = FAMILIES[family]
    batch = padded(make(3))

    def gradient(checkpointing: bool) -> Tensor:
        model = tuned(build(), density=0.3, init_weights=False)
        model.train()
        if checkpointing:
            enable_checkpointing(model.base_model.model, {"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(**batch, use_cache=False).loss.backward() if family != "bert" else model(**batch).loss.backward()
        return flat_of(model).grad

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_trains_in_bfloat16_with_float32_values(family: str) -> None:
    build, make = FAMILIES[family]
    batch = padded(make(3))
    gradients = []
    for autocast in (False, True):
        model = tuned(build(), density=0.3, init_weights=False)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**batch).loss
        loss.backward()
        gradients.append(flat_of(model).grad)
    assert gradients[1].dtype == torch.float32
    assert not torch.equal(*gradients)
    assert nn.functional.cosine_similarity(*gradients, dim=0) > 0.98


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv1d", "embedding"])
def test_the_output_of_a_layer_may_be_changed_in_place(kind: str, bias: bool) -> None:
    layers: dict[str, Callable[[], nn.Module]] = {
        "linear": lambda: nn.Linear(4, 6, bias=bias),
        "conv1d": lambda: Conv1D(6, 4),
        "embedding": lambda: nn.Embedding(4, 6),
    }
    x = torch.tensor([[0, 1, 3]]) if kind == "embedding" else torch.randn(2, 3, 4)
    gradients = []
    for in_place in (True, False):
        torch.manual_seed(0)
        model = tuned(nn.Sequential(layers[kind]()), density=0.5)
        turned = model(x).permute(0, 2, 1)
        turned = turned.mul_(2.0) if in_place else turned * 2.0
        turned.square().sum().backward()
        gradients.append(flat_of(model).grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_merging_between_forward_and_backward_changes_no_gradient(kind: str) -> None:
    module, shape = {"linear": (nn.Linear(4, 4), (3, 4)), "convolution": (nn.Conv1d(4, 4, 1), (3, 4, 5))}[kind]
    model = tuned(nn.Sequential(module), density=0.5, init_weights=False)
    x = torch.randn(shape, requires_grad=True)
    model(x).square().sum().backward()
    expected, x.grad = x.grad, None
    loss = model(x).square().sum()
    model.merge_adapter()
    loss.backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)
    merged = model(x).detach()
    model.unmerge_adapter()
    assert torch.equal(model(x), merged)


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Conv1d(4, 1, 3))


def test_a_step_between_two_backward_passes_is_refused_as_without_an_adapter() -> None:
    plain, x = convolutions(), torch.randn(2, 2, 9)
    model = tuned(convolutions(), density=0.5)
    for module, message in (
        (plain, "modified by an inplace operation"),
        (model, r"'default' has made a step.*2\.weight"),
    ):
        first, second = module(x).square().mean(), (module(x) - 1).square().mean()
        first.backward()
        torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.5).step()
        with pytest.raises(RuntimeError, match=message):
            second.backward()


@pytest.mark.parametrize("first_alone", [True, False])
def test_a_new_mask_between_forward_and_backward_is_refused(first_alone: bool) -> None:
    base = convolutions()[:1] if first_alone else convolutions()
    model = tuned(base, density=0.3, init_weights=False)
    loss = model(torch.randn(2, 2, 9)).square().mean()
    model.base_model.set_mask(random_scores(model))
    with pytest.raises(RuntimeError, match=r"'default' has a new mask since the forward pass .* compute the loss anew"):
        loss.backward()


def test_a_parameter_that_is_viewed_as_complex_gives_the_gradients_of_the_merged_one() -> None:
    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 5, 2))

        def forward(self, x: Tensor) -> Tensor:
            return (x * torch.view_as_complex(self.weight)).abs()

    model = tuned(nn.Sequential(Filter()), density=0.5, init_weights=False)
    x = torch.randn(6, 5, requires_grad=True)
    model(x).square().sum().backward()
    unmerged, x.grad = x.grad, None
    model.merge_adapter()
    model(x).square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(unmerged, x.grad)
