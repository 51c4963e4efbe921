"""torch's own attention and transformer encoder, which have ways around the layers within them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from ..support.models import UNSCORED, Attention, flat_of, randomise, tuned

pytestmark = pytest.mark.filterwarnings(UNSCORED)


@pytest.mark.parametrize("targets", [None, ["out_proj"], ["attention"], r".*out_proj"])
@pytest.mark.parametrize("training", [True, False])
def test_attention_is_never_a_silent_no_op(targets: Any, training: bool) -> None:
    base = Attention().train(training)
    x = torch.randint(1, 40, (2, 5))
    with torch.no_grad():
        expected = base(x)
    model = tuned(base, density=1.0, target_modules=targets)
    model.train(training)
    randomise(model, scale=0.5)
    names = list(model.base_model.mask())
    assert "attention.out_proj.weight" in names
    assert ("attention.in_proj_weight" in names) == (targets in (None, ["attention"]))
    with torch.no_grad():
        found = model(x)
    assert not torch.allclose(found, expected)
    model(x).square().sum().backward()
    start = 0
    for name, positions in model.base_model.mask().items():
        part = flat_of(model).grad[start : start + len(positions)]
        start += len(positions)
        assert part.abs().sum() > 0, name
    model.merge_adapter()
    with torch.no_grad():
        torch.testing.assert_close(model(x), found, rtol=1e-5, atol=1e-6)
    merged = model.unload()
    assert type(merged.attention) is nn.MultiheadAttention
    assert type(merged.attention.out_proj).__name__ == "NonDynamicallyQuantizableLinear"


@pytest.mark.parametrize("targets", [None, ["linear1"], ["out_proj"], ["norm2"]])
@pytest.mark.parametrize("nested", [True, False])
def test_the_fast_path_of_the_transformer_encoder_does_not_bypass_the_adapter(targets: Any, nested: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    base = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested).eval()
    x = torch.randn(2, 5, 8)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    model = tuned(base, density=1.0, target_modules=targets)
    randomise(model, scale=0.5)
    slow = model(x, src_key_padding_mask=padding)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*nested tensors.*")
        fast = model(x, src_key_padding_mask=padding)
        model.merge_adapter()
        merged = model(x, src_key_padding_mask=padding)
        model.unmerge_adapter()
        unloaded = model.merge_and_unload()(x, src_key_padding_mask=padding)
    for found in (fast, merged, unloaded):
        torch.testing.assert_close(found[~padding], slow.detach()[~padding], rtol=1e-4, atol=1e-5)
