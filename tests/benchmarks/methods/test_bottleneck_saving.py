"""Houlsby adapters and Compacter are saved and loaded."""

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file

from benchmarks.methods import CompacterConfig

from .bottlenecked import METHODS, filled, logits, same_state, tiny_t5, train


@METHODS
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_fresh_model_computes_the_same_bits_after_loading(config_class, low_cpu_mem_usage, tmp_path):
    model = filled(config_class(sites=["self_attention", "feed_forward"]))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_t5(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage).eval()
    assert torch.equal(logits(loaded), logits(model))
    assert same_state(loaded.state_dict(), model.state_dict())
    assert type(PeftConfig.from_pretrained(tmp_path)) is config_class


def test_the_rule_is_saved_once(tmp_path):
    model = filled(CompacterConfig())
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum("compacter_rule" in name for name in saved) == 1
    assert sum(tensor.numel() for tensor in saved.values()) == model.get_nb_trainable_parameters()[0]


@METHODS
def test_a_loaded_adapter_can_be_trained_on_and_saved_again(config_class, tmp_path):
    filled(config_class()).save_pretrained(tmp_path / "first")
    model = PeftModel.from_pretrained(tiny_t5(), tmp_path / "first", is_trainable=True, low_cpu_mem_usage=True)
    train(model, steps=2)
    model.eval().save_pretrained(tmp_path / "second")
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_t5(), tmp_path / "second").eval()), logits(model))


@METHODS
def test_transformers_loads_an_adapter(config_class, tmp_path):
    model = filled(config_class())
    model.save_pretrained(tmp_path)
    loaded = tiny_t5()
    loaded.load_adapter(tmp_path)
    assert torch.equal(logits(loaded.eval()), logits(model))
