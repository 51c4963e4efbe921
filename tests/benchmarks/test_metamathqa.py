"""The experiments for PEFT's own comparison of methods; tests/integrations/comparison.py has its runner take them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftConfig
from transformers import LlamaConfig, LlamaForCausalLM

from peft_fishdip import FishDipConfig
from peft_fishdip.selection import num_active

ROOT = Path(__file__).parents[2] / "benchmarks" / "metamathqa" / "experiments" / "fishdip"
FOLDERS = sorted(ROOT.iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_experiment_is_two_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "training_params.json"]
    config = PeftConfig.from_pretrained(str(folder))
    assert isinstance(config, FishDipConfig)
    assert config.task_type == "CAUSAL_LM"
    assert json.loads((folder / "training_params.json").read_text()).keys() == {"optimizer_kwargs"}


def test_one_experiment_trains_as_many_entries_as_pefts_lora_of_rank_32():
    sizes = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24}
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=128256, num_key_value_heads=8, tie_word_embeddings=True, **sizes)
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_212_749_824  # of meta-llama/Llama-3.2-3B
    targeted = [m.weight.numel() for name, m in model.named_modules() if name.endswith(("q_proj", "v_proj"))]
    config = PeftConfig.from_pretrained(str(ROOT / "llama-3.2-3B-target-qv-interval500"))
    assert config.target_modules == {"q_proj", "v_proj"}
    assert num_active(config.density, sum(targeted)) == 9_175_040
