"""Invariant 4: a tied parameter is one parameter, whatever its uses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ..support.models import (
    flat_of,
    gpt2,
    ignoring_unscored_mask,
    lm_examples,
    padded,
    randomise,
    seq2seq_examples,
    tied_t5,
    tuned,
)
from ..support.reference import example_loss

TIED: dict[str, tuple[Any, Any, str, list[str]]] = {
    "t5": (tied_t5, seq2seq_examples, "shared.weight", ["shared", "lm_head", "embed_tokens"]),
    "gpt2": (gpt2, lm_examples, "transformer.wte.weight", ["wte", "lm_head"]),
}


def targets_of(family: str) -> list[Any]:
    return [None, *([name] for name in TIED[family][3])]


@pytest.mark.parametrize(
    ("family", "target"), [(family, target) for family in TIED for target in targets_of(family)], ids=str
)
def test_every_use_sees_the_delta_and_the_gradient_is_the_sum_of_all_uses(family: str, target: Any) -> None:
    build, make, name, _ = TIED[family]
    batch = padded(make(3))
    model = tuned(build(), target_modules=target, density=0.5)
    randomise(model)
    assert name in model.base_model.mask()
    if target is not None:
        assert list(model.base_model.mask()) == [name]
    assert flat_of(model).numel() == sum(len(positions) for positions in model.base_model.mask().values())

    whole = build()  # the same effective weights, tied as ever, with dense gradients
    parameters = dict(whole.named_parameters())
    with torch.no_grad():
        for key, (positions, values) in model.base_model.delta().items():
            parameters[key].view(-1)[positions] += values
    with torch.no_grad():
        assert torch.equal(whole(**batch).logits, model(**batch).logits)
    example_loss(whole, family, batch).sum().backward()
    with ignoring_unscored_mask():
        example_loss(model, family, batch).sum().backward()
    start = 0
    for key, positions in model.base_model.mask().items():
        found = flat_of(model).grad[start : start + len(positions)]
        start += len(positions)
        if key == name:
            torch.testing.assert_close(found, parameters[name].grad.view(-1)[positions], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", TIED)
def test_a_tied_parameter_stays_tied_after_merging_unloading_and_tying_again(family: str) -> None:
    build, make, _, _ = TIED[family]
    batch = padded(make(3))
    model = tuned(build(), density=0.5, init_weights=False)
    with torch.no_grad():
        expected = model(**batch).logits
    merged = model.merge_and_unload()
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    assert torch.equal(merged(**batch).logits, expected)
    merged.tie_weights()
    assert torch.equal(merged(**batch).logits, expected)
    assert len(dict(merged.named_parameters())) == len(dict(build().named_parameters()))


@pytest.mark.parametrize("family", TIED)
def test_only_the_first_use_saves_the_delta(family: str) -> None:
    build, _, _, _ = TIED[family]
    model = tuned(build(), density=0.1)
    keys = [key for key in model.state_dict() if "fishdip_values" in key and not key.endswith(".flat")]
    assert len(keys) == len(model.base_model.mask())


class SameModuleTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.again = self.first
        self.norm = nn.LayerNorm(6)
        self.stack = nn.ModuleList([self.norm, self.norm])

    def forward(self, x: Tensor) -> Tensor:
        return self.stack[1](self.again(self.stack[0](self.first(x)).relu()))


def test_the_same_module_under_two_names_is_wrapped_once() -> None:
    base, x = SameModuleTwice(), torch.randn(4, 6)
    expected = base(x)
    model = tuned(base, density=1.0)
    assert torch.equal(model(x), expected)
    assert base.first is base.again
    assert base.stack[0] is base.stack[1] is base.norm
    assert list(model.base_model.mask()) == ["first.weight", "first.bias", "norm.weight", "norm.bias"]
    randomise(model)
    in_training = model(x)
    with ignoring_unscored_mask():
        in_training.sum().backward()
    gradient = flat_of(model).grad
    merged = model.merge_and_unload()
    assert torch.equal(merged(x), in_training)
    assert merged.first is merged.again
    assert type(merged.first) is nn.Linear
    merged.requires_grad_(True)
    merged(x).sum().backward()
    dense = torch.cat([p.grad.flatten() for p in merged.parameters()])
    torch.testing.assert_close(gradient, dense, rtol=1e-4, atol=1e-6)


class TiedLinears(nn.Module):
    """A weight that one module uses as it is and another as its bias-free twin, with different second parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 5)
        self.two = nn.Linear(5, 5)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).tanh())


@pytest.mark.parametrize("target", ["one", "two"])
def test_targeting_one_module_of_a_tied_pair_tunes_the_shared_weight_and_that_module_alone(target: str) -> None:
    base = TiedLinears()
    model = tuned(base, density=1.0, target_modules=[target], init_weights=False)
    assert list(model.base_model.mask()) == ["one.weight", f"{target}.bias"]
    x = torch.randn(3, 5)
    expected = model(x)
    model.merge_adapter()
    assert torch.equal(model(x), expected)


def test_excluding_one_use_of_a_tied_parameter_leaves_it_out() -> None:
    model = tuned(tied_t5(), density=0.5, exclude_modules=["lm_head"])
    assert "shared.weight" not in model.base_model.mask()


def test_a_second_adapter_that_targets_another_use_shares_the_parameter() -> None:
    base, batch = tied_t5(), padded(seq2seq_examples(3))
    model = tuned(base, target_modules=["lm_head"], density=0.3, init_weights=False)
    first = model(**batch).logits
    config = type(model.peft_config["default"])(target_modules=["shared", "q"], density=0.3, init_weights=False)
    model.add_adapter("second", config)
    assert torch.equal(model(**batch).logits, first)
    model.set_adapter("second")
    second = model(**batch).logits
    model.base_model.set_adapter(["default", "second"])
    both = model(**batch).logits
    assert not torch.equal(first, second)
    model.merge_adapter()
    assert torch.equal(model(**batch).logits, both)
    model.unmerge_adapter()
    model.delete_adapter("second")
    model.set_adapter("default")
    assert torch.equal(model(**batch).logits, first)
