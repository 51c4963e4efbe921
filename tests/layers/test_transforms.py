"""Derivatives by torch.func, against finite differences and the backward pass; and what refuses second derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..support.models import UNSCORED, bert_tagger, flat_of, gemma, gpt2, llama, tied_t5, tuned

pytestmark = pytest.mark.filterwarnings(UNSCORED)
IDS = torch.arange(3, 15).view(2, 6)
MODELS = {"llama": llama, "gemma": gemma, "gpt2": gpt2, "t5": tied_t5, "bert": bert_tagger}


def made(name: str, **settings: Any) -> tuple[Any, dict[str, Tensor], Any]:
    """A float64 model, its trainable vector, and its loss as a function of that."""
    model = tuned(MODELS[name]().double(), density=0.2, init_weights=False, **settings)
    vectors = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}

    def loss(vectors: dict[str, Tensor], ids: Tensor = IDS) -> Tensor:
        labels = ids % 3 if name == "bert" else ids
        return functional_call(model, vectors, (), {"input_ids": ids, "labels": labels}).loss

    return model, {key: vector.detach().clone() for key, vector in vectors.items()}, loss


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_the_backward_pass(name: str) -> None:
    model, vectors, loss = made(name)
    [found] = grad(loss)(vectors).values()
    labels = IDS % 3 if name == "bert" else IDS
    model(input_ids=IDS, labels=labels).loss.backward()
    torch.testing.assert_close(found, flat_of(model).grad, rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own use
def test_second_derivatives_are_differences_of_gradients() -> None:
    _, vectors, loss = made("llama")
    [key] = vectors
    direction = torch.randn(vectors[key].shape, generator=torch.Generator().manual_seed(0)).to(vectors[key].dtype)
    with sdpa_kernel(SDPBackend.MATH):
        _, found = jvp(grad(loss), (vectors,), ({key: direction},))
        ahead, behind = (grad(loss)({key: vectors[key] + step * direction})[key] for step in (1e-3, -1e-3))
    torch.testing.assert_close(found[key], (ahead - behind) / 2e-3, rtol=2e-2, atol=2e-3)


def test_gradients_of_single_examples_are_those_of_each_alone() -> None:
    _, vectors, loss = made("llama")
    [key] = vectors
    with sdpa_kernel(SDPBackend.MATH):
        found = vmap(grad(lambda vectors, ids: loss(vectors, ids[None])), (None, 0))(vectors, IDS)[key]
    for i in range(2):
        torch.testing.assert_close(found[i], grad(loss)(vectors, IDS[i : i + 1])[key], rtol=1e-5, atol=1e-7)


def test_an_adapter_that_updates_itself_hears_nothing_of_transforms() -> None:
    model, vectors, loss = made("llama", auto_update=True)
    model.train()
    assert grad(loss)(vectors)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer = torch.optim.AdamW([flat_of(model)], lr=1e-3)
    optimizer.step()
    assert sorted(model.base_model.last_update().example_ids) == [0, 1]


@pytest.mark.parametrize("name", ["llama", "t5", "bert"])
def test_a_gradient_that_is_differentiated_again_says_what_to_do(name: str) -> None:
    model, _, _ = made(name)
    labels = IDS % 3 if name == "bert" else IDS
    with sdpa_kernel(SDPBackend.MATH):
        loss = model(input_ids=IDS, labels=labels).loss
        [gradient] = torch.autograd.grad(loss, [flat_of(model)], create_graph=True)
        with pytest.raises(RuntimeError, match=r"cannot be differentiated again .*use torch\.func\.grad"):
            gradient.square().sum().backward()
