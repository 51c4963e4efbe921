"""Invariant 1: base weights are bitwise what they were, always, except while merged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ..support.models import (
    FAMILIES,
    Attention,
    Convolutions,
    assert_base_is,
    base_bits,
    bert_classifier,
    classifier_examples,
    flat_of,
    ignoring_unscored_mask,
    padded,
    randomise,
    seq2seq_examples,
    snapshot,
    tied_t5,
    tuned,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("family", FAMILIES)
def test_training_with_updates_leaves_the_base_alone(family: str) -> None:
    build, make = FAMILIES[family]
    base, examples = build(), make(8)
    before = snapshot(base)
    model = tuned(base)
    optimizer = torch.optim.AdamW([flat_of(model)], lr=0.02, weight_decay=0.1)
    for _ in range(2):
        model.base_model.update_mask(examples, optimizer=optimizer)
        assert_base_is(model, before)
        for _ in range(2):
            loss = model(**padded(examples[:3])).loss
            assert_base_is(model, before)  # also between forward and backward
            loss.backward()
            assert_base_is(model, before)
            optimizer.step()
    assert flat_of(model).abs().max() > 0
    assert_base_is(model, before)


class Interrupted(Exception):
    pass


def raising(*args: Any, **kwargs: Any) -> None:
    raise Interrupted


@pytest.mark.parametrize("family", ["t5", "bert", "gpt2"])
def test_an_exception_anywhere_in_a_forward_pass_leaves_the_base_alone(family: str) -> None:
    build, make = FAMILIES[family]
    base, examples = build(), make(4)
    before = snapshot(base)
    model = tuned(base, init_weights=False, density=0.3)
    expected = model(**padded(examples)).logits
    modules = [module for module in model.modules() if not list(module.children()) or hasattr(module, "base_layer")]
    for module in modules[:: len(modules) // 16]:
        for hooked in (module.register_forward_pre_hook, module.register_forward_hook):
            handle = hooked(raising)
            with contextlib.suppress(Interrupted):  # some are not called at all
                model(**padded(examples))
            handle.remove()
            assert_base_is(model, before)
    assert torch.equal(model(**padded(examples)).logits, expected)


@pytest.mark.parametrize("kind", ["linear", "embedding", "conv"])
def test_an_exception_inside_a_layer_leaves_the_base_weights_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bases: dict[str, tuple[nn.Module, Tensor]] = {
        "linear": (nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 5)),  # inputs of the wrong width or number
        "embedding": (nn.Sequential(nn.Embedding(4, 3)), torch.tensor([7])),
        "conv": (nn.Sequential(nn.Conv1d(4, 3, 1)), torch.randn(2, 5, 6)),
    }
    base, wrong = bases[kind]
    before = snapshot(base)
    model = tuned(base, density=0.5, init_weights=False)
    with pytest.raises((RuntimeError, IndexError)):
        model(wrong)
    assert_base_is(model, before)


def test_an_exception_in_backward_leaves_the_base_weights_alone() -> None:
    base = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    before = snapshot(base)
    model = tuned(base, density=0.5, init_weights=False)
    x = torch.randn(2, 4, requires_grad=True)
    hidden = model(x)
    hidden.grad_fn.register_prehook(raising)
    with pytest.raises(Interrupted), ignoring_unscored_mask():
        hidden.sum().backward()
    assert_base_is(model, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("build", [tied_t5, bert_classifier, Convolutions, Attention])
def test_merging_and_unmerging_restores_every_bit(build: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    base = build().to(dtype)
    before = snapshot(base)
    model = tuned(base, density=0.5, init_weights=False)
    for _ in range(3):
        model.merge_adapter()
        assert any(not torch.equal(found, before[name]) for name, found in base_bits(model).items())
        model.unmerge_adapter()
        assert_base_is(model, before)


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_merging_several_adapters_one_after_the_other_and_unmerging_restores_every_bit(order: list[str]) -> None:
    base = bert_classifier().bfloat16()
    before = snapshot(base)
    model = tuned(base, density=0.5, init_weights=False)
    config = model.peft_config["default"]
    for name in order:
        model.add_adapter(name, config)
    for name in order:
        model.base_model.merge_adapter([name])
    model.merge_adapter()
    model.unmerge_adapter()
    assert_base_is(model, before)


def test_a_model_that_was_cast_while_merged_unmerges_to_the_cast_base() -> None:
    base = bert_classifier()
    model = tuned(base, density=0.5, init_weights=False)
    expected = {name: tensor.bfloat16() for name, tensor in bert_classifier().state_dict().items()}
    model.merge_adapter()
    model.to(torch.bfloat16)
    model.unmerge_adapter()
    for name, found in base_bits(model).items():
        assert torch.equal(found, expected[name].contiguous().reshape(-1).view(torch.uint8)), name


@torch.no_grad()
def test_disabling_deleting_and_unloading_restore_the_base() -> None:
    base = tied_t5()
    before, batch = snapshot(base), padded(seq2seq_examples(3))
    expected = base(**batch).logits
    model = tuned(base, init_weights=False)
    assert not torch.equal(model(**batch).logits, expected)
    with model.disable_adapter():
        assert torch.equal(model(**batch).logits, expected)
    model.merge_adapter()
    with model.disable_adapter():
        assert_base_is(model, before)  # every use of a tied weight, before any call
        assert torch.equal(model(**batch).logits, expected)
    model.merge_adapter()
    unloaded = model.unload()
    assert all(torch.equal(bits, before[name]) for name, bits in snapshot(unloaded).items())
    assert torch.equal(unloaded(**batch).logits, expected)


FAILURES: dict[str, Callable[[Any, Any], Any]] = {
    "loss of an example": lambda model, batch: (_ for _ in ()).throw(Interrupted()),
    "gradient": lambda model, batch: failing_gradient(model(**batch).logits.sum(-1)),
}


class FailingGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise Interrupted


def failing_gradient(x: Tensor) -> Tensor:
    return FailingGradient.apply(x)


@pytest.mark.parametrize("failure", FAILURES)
def test_an_update_that_fails_changes_nothing(failure: str) -> None:
    base, examples = bert_classifier(), classifier_examples(6)
    before = snapshot(base)
    model = tuned(base)
    model.base_model.update_mask(examples)
    randomise(model)
    model.train()
    flat_of(model).grad = torch.ones_like(flat_of(model))
    mask, delta = model.base_model.mask(), model.base_model.delta()
    flags = {name: (p.requires_grad, p.grad is None) for name, p in model.named_parameters()}
    with pytest.raises(Interrupted):
        model.base_model.update_mask(examples, loss_fn=FAILURES[failure])
    assert_base_is(model, before)
    assert all(torch.equal(positions, mask[name]) for name, positions in model.base_model.mask().items())
    assert all(torch.equal(values, delta[name][1]) for name, (_, values) in model.base_model.delta().items())
    assert flags == {name: (p.requires_grad, p.grad is None) for name, p in model.named_parameters()}
    assert all(module.training for module in model.modules())
    assert not model.base_model.update_mask(examples).support_size < flat_of(model).numel()  # and it still works
