"""A layer over a quantised weight: what it adds, how precisely, and what it cannot be put over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from peft_fishdip.layers.quantized import FishDipQuantizedLinear

from ...support.models import VOCABULARY, flat_of, ignoring_unscored_mask, padded, tuned
from .bases import EXAMPLES, KINDS, adapted, assert_same, bitsandbytes, logits, quantised, stored_bits


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_zeros_changes_no_bit(saved: dict[str, Path], kind: str) -> None:
    base = quantised(saved["llama"], kind)
    expected, before = logits(base), stored_bits(base)
    model = tuned(base)
    assert any(isinstance(module, FishDipQuantizedLinear) for module in model.modules())
    assert torch.equal(logits(model), expected)
    model.base_model.unload()
    assert torch.equal(logits(base), expected)
    assert_same(before, stored_bits(base))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_adds_the_product_of_its_delta(saved: dict[str, Path], kind: str) -> None:
    model = adapted(saved["llama"], kind)
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    positions, values = model.base_model.delta()["model.layers.1.mlp.down_proj.weight"]
    dense = torch.zeros(64 * 96).index_put((positions,), values).view(64, 96)
    assert values.abs().max() > 0.01
    x = torch.randn(2, 5, 96)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.base_layer(x) + F.linear(x, dense), rtol=1e-6, atol=1e-6)
    assert not torch.equal(layer(x), layer.base_layer(x))


def test_autocast_computes_the_delta_in_its_dtype(saved: dict[str, Path]) -> None:
    model = adapted(saved["llama"], "nf4")
    batch = padded(EXAMPLES[:4])
    model(**batch).loss.backward()
    exact = flat_of(model).grad.clone()
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    assert (flat_of(model).grad - exact).norm() < 0.1 * exact.norm()


def test_quantised_storage_of_another_kind_is_refused(saved: dict[str, Path]) -> None:
    base = nn.Sequential(bitsandbytes.nn.Embedding4bit(VOCABULARY, 64), nn.Linear(64, 4))
    with pytest.raises(ValueError, match=r"'0\.weight' is a Params4bit.*exclude_modules"):
        tuned(base, density=0.3)
    assert type(base[0]) is bitsandbytes.nn.Embedding4bit


def test_a_four_bit_layer_stays_readable_on_every_cpu() -> None:
    """bitsandbytes packs the weight anew at the first call in eval mode, on CPUs with AVX512-BF16."""
    layers = [bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32) for _ in range(2)]
    base = nn.Sequential(*layers).to("cpu").eval()
    for layer in layers:
        layer.weight = layer.weight.to("cpu")
    with torch.no_grad():
        base(torch.randn(2, 64))  # packs it, where the CPU has what it takes
    model = tuned(base, density=0.1, target_modules=["0"])
    x = torch.randn(2, 64)
    model.eval()
    model(x)
    for layer in layers:
        assert not getattr(layer.weight.quant_state, "packing_format_for_cpu", False)
    with ignoring_unscored_mask():
        model(x.requires_grad_()).sum().backward()
    weights = [bitsandbytes.functional.dequantize_4bit(y.weight.data, y.weight.quant_state) for y in layers]
    expected = torch.ones(2, 64) @ weights[1] @ weights[0]
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-4)
