"""Processors without units for half precision multiply in float32, and round once."""

from __future__ import annotations

import pytest
import torch

from peft_fishdip import half_precision
from peft_fishdip.half_precision import Float32Products, float32_products, for_product

from .support.models import FAMILIES, padded, tuned

HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_only_half_precision_becomes_float32(monkeypatch: pytest.MonkeyPatch, slow: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr(half_precision, "HALVES_ARE_SLOW", slow)
    tensor = torch.ones(2, dtype=dtype)
    assert for_product(tensor).dtype == (torch.float32 if slow and dtype in HALVES else dtype)
    assert isinstance(float32_products([tensor]), Float32Products) == (slow and dtype in HALVES)


@pytest.mark.parametrize("dtype", HALVES)
def test_products_are_those_of_float32_rounded_once(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(half_precision, "HALVES_ARE_SLOW", True)
    a, b, c = (torch.randn(3, 5, 5).to(dtype) for _ in range(3))
    with Float32Products():
        found = (a[0] @ b[0], torch.addmm(c[0], a[0], b[0]), a @ b)
    wide = (a[0].float() @ b[0].float(), torch.addmm(c[0].float(), a[0].float(), b[0].float()), a.float() @ b.float())
    for one, other in zip(found, wide, strict=True):
        assert torch.equal(one, other.to(dtype))


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_an_update_is_the_same_but_for_rounding(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    build, make = FAMILIES[family]
    examples = make(6)
    masks = []
    for slow in (True, False):
        monkeypatch.setattr(half_precision, "HALVES_ARE_SLOW", slow)
        model = tuned(build().to(torch.bfloat16), density=0.1, sample_selection="all")
        model.base_model.update_mask(examples, data_collator=padded)
        masks.append({(name, int(i)) for name, where in model.base_model.mask().items() for i in where})
        assert {p.dtype for name, p in model.named_parameters() if "fishdip" not in name} == {torch.bfloat16}
    assert len(masks[0] & masks[1]) > 0.9 * len(masks[0])
