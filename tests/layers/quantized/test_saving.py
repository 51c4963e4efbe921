"""An adapter of a quantised base is saved, loaded and copied, and moves to a plain one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

from ...support.models import ignoring_unscored_mask, randomise, seq2seq_examples
from .bases import EXAMPLES, KINDS, adapted, logits, quantised


@pytest.mark.parametrize("base", ["llama", "t5"])
@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_bitwise(saved: dict[str, Path], kind: str, base: str, tmp_path: Path) -> None:
    examples = seq2seq_examples(8) if base == "t5" else EXAMPLES
    model = adapted(saved[base], kind)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(quantised(saved[base], kind), tmp_path)
    assert torch.equal(logits(loaded, examples), logits(model, examples))
    for name, (positions, values) in model.base_model.delta().items():
        found = loaded.base_model.delta()[name]
        assert torch.equal(found[0], positions)
        assert torch.equal(found[1], values)


def test_auto_model_takes_the_quantisation(saved: dict[str, Path], tmp_path: Path) -> None:
    model = adapted(saved["llama"], "nf4")
    model.save_pretrained(tmp_path)
    loaded = AutoPeftModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=KINDS["nf4"](), device_map="cpu", dtype=torch.float32
    )
    assert torch.equal(logits(loaded), logits(model))


def test_an_adapter_moves_between_a_plain_and_a_quantised_base(saved: dict[str, Path], tmp_path: Path) -> None:
    """As LoRA's do: train on 4 bit, use on full precision."""
    model = adapted(saved["llama"], "nf4")
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(saved["llama"], dtype=torch.float32), tmp_path
    )
    for name, (positions, values) in model.base_model.delta().items():
        assert torch.equal(plain.base_model.delta()[name][0], positions)
        assert torch.equal(plain.base_model.delta()[name][1], values)


def test_a_deep_copy_is_another_model(saved: dict[str, Path]) -> None:
    model = adapted(saved["llama"], "nf4")
    with ignoring_unscored_mask():
        other = copy.deepcopy(model)
    expected = logits(model)
    assert torch.equal(logits(other), expected)
    randomise(other, scale=0.5)
    assert torch.equal(logits(model), expected)
    assert not torch.equal(logits(other), expected)
