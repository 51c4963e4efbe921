"""Compact files of adapters to quantised bases, and onto them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ...adapter.compact.saved import config_of
from ...support.models import tuned
from .bases import KINDS, logits, quantised


@pytest.mark.parametrize("kind", KINDS)
def test_deltas_to_quantised_weights_stay_float32(kind: str, saved: dict[str, Path], tmp_path: Path) -> None:
    model = tuned(quantised(saved["llama"], kind), compact=True, init_weights=False).requires_grad_(False)
    model.save_pretrained(str(tmp_path))
    storage = config_of(tmp_path)["compact_storage"]
    assert {line.split()[1] for line in storage.values()} == {"float32"}
    loaded = PeftModel.from_pretrained(quantised(saved["llama"], kind), str(tmp_path))
    assert torch.equal(logits(loaded), logits(model))


def test_effective_weights_do_not_load_onto_a_quantised_base(saved: dict[str, Path], tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(saved["llama"], dtype=torch.bfloat16)
    tuned(base, compact=True, init_weights=False).requires_grad_(False).save_pretrained(str(tmp_path))
    other = quantised(saved["llama"], "8bit")
    expected = logits(other)
    with pytest.raises(ValueError, match=r"is quantised, sharded or on meta.* saved from there with compact=False"):
        PeftModel.from_pretrained(other, str(tmp_path))
    assert torch.equal(logits(other), expected)
