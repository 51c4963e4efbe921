"""Merging into a quantised base, and its exact restoration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from peft_fishdip import FishDipConfig

from ...support.models import flat_of, train, tuned
from .bases import EXAMPLES, KINDS, adapted, assert_same, logits, quantization, stored_bits


@pytest.mark.parametrize("kind", KINDS)
def test_merged_and_restored_bitwise(saved: dict[str, Path], kind: str) -> None:
    model = adapted(saved["llama"], kind)
    before, expected = stored_bits(model), logits(model)
    with model.disable_adapter():
        base = logits(model)
    for _ in range(2):
        model.merge_adapter()
        merged = logits(model)
        # quantising rounds, so merging is only nearly right
        assert (merged - expected).norm() < 0.5 * (base - expected).norm()
        changed = stored_bits(model)
        assert any(not torch.equal(changed[name], tensor) for name, tensor in before.items() if "_proj.base" in name)
        model.unmerge_adapter()
        assert torch.equal(logits(model), expected)
        assert_same(before, stored_bits(model))
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert_same(before, stored_bits(model))


@pytest.mark.parametrize("kind", KINDS)
def test_merge_and_unload_leaves_a_quantised_model(saved: dict[str, Path], kind: str) -> None:
    model = adapted(saved["llama"], kind)
    expected = logits(model)
    with model.disable_adapter():
        base = logits(model)
    layer = model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    kinds = type(layer), type(layer.weight)
    plain = model.merge_and_unload()
    found = plain.model.layers[0].mlp.up_proj
    assert (type(found), type(found.weight)) == kinds
    assert (logits(plain) - expected).norm() < 0.5 * (base - expected).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_two_adapters_add_up_and_merge_together(saved: dict[str, Path], kind: str) -> None:
    model = adapted(saved["llama"], kind)
    model.add_adapter("other", FishDipConfig(density=0.05, init_weights=False, seed=3))
    one = logits(model)
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    assert not torch.allclose(one, both)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    with torch.no_grad():
        wanted = layer.get_base_weight().clone().float()
        for name in ("default", "other"):
            positions, values = model.base_model.delta(name)["model.layers.0.mlp.up_proj.weight"]
            wanted.view(-1)[positions] += values
    model.merge_adapter(["default"])
    model.merge_adapter(["other"])
    assert layer.merged_adapters == ["default", "other"]
    step = wanted.abs().max(1, keepdim=True).values / (3 if kind == "nf4" else 127)
    assert ((layer.get_base_weight().float() - wanted).abs() <= step).all()
    model.unmerge_adapter()
    assert torch.equal(logits(model), both)
    model.delete_adapter("other")
    model.set_adapter("default")
    assert torch.equal(logits(model), one)


def test_safe_merge_finds_what_is_not_finite(saved: dict[str, Path]) -> None:
    model = adapted(saved["llama"], "nf4")
    before = stored_bits(model)
    with torch.no_grad():
        flat_of(model)[-1] = torch.inf
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)
    assert_same(before, stored_bits(model))


def test_torchao_without_its_config_trains_but_refuses_to_merge(saved: dict[str, Path]) -> None:
    base = AutoModelForCausalLM.from_pretrained(saved["llama"], dtype=torch.float32).eval()
    quantization.quantize_(base, quantization.Int8WeightOnlyConfig())
    model = tuned(base, density=0.05, num_samples=4)
    train(
        model,
        EXAMPLES,
        2,
        torch.optim.AdamW(model.parameters(), 0.01),
        lambda _: model.base_model.update_mask(EXAMPLES),
    )
    before, expected = stored_bits(model), logits(model)
    with pytest.raises(ValueError, match="TorchAoConfig"):
        model.merge_adapter()
    assert_same(before, stored_bits(model))
    assert torch.equal(logits(model), expected)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    with pytest.raises(ValueError, match="TorchAoConfig"):
        layer.merge()
    assert_same(before, stored_bits(model))
    assert torch.equal(logits(model), expected)
