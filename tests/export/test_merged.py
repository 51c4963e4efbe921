"""The merged folder is what merge_and_unload and save_pretrained write, and needs neither PEFT nor this package."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ByT5Tokenizer

from benchmarks.memory import STATUS, MemoryMeter
from peft_fishdip.export import write_merged, write_patch

from ..support.models import llama
from .saved import assert_same_bits, save_adapter, save_base, tensors_of


@pytest.mark.parametrize("family", ["t5", "qwen3_moe", "gemma_with_images"])
def test_it_has_the_bits_of_merge_and_unload(family, tmp_path):
    base = save_base(tmp_path / "base", family, torch.bfloat16)
    model = save_adapter(tmp_path / "adapter", base, family)
    before = tensors_of(base)
    write_merged(tmp_path / "adapter", tmp_path / "merged")
    model.merge_and_unload().save_pretrained(tmp_path / "expected")
    assert_same_bits(tensors_of(tmp_path / "merged"), tensors_of(tmp_path / "expected"))
    assert_same_bits(tensors_of(base), before)


def test_shards_and_the_files_beside_them(tmp_path):
    base = save_base(tmp_path / "base", "qwen3_moe", max_shard_size="10kB")
    ByT5Tokenizer().save_pretrained(base)
    for name in ("modeling_custom.py", "pytorch_model.bin", "README.md"):
        (base / name).write_text("nothing that a merged model needs")
    (base / "LICENSE").write_text("the licence of the base model stays with it")
    model = save_adapter(tmp_path / "adapter", base, "qwen3_moe")
    write_merged(tmp_path / "adapter", tmp_path / "merged")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert len([name for name in names if name.endswith(".safetensors")]) > 2
    assert {path.name for path in base.iterdir()} - names == {"modeling_custom.py", "pytorch_model.bin", "README.md"}
    assert json.loads((tmp_path / "merged/model.safetensors.index.json").read_text())["weight_map"]
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("Mia").input_ids == ByT5Tokenizer()("Mia").input_ids
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        assert torch.equal(served(ids).logits, model.merge_and_unload()(ids).logits)


@pytest.mark.slow
def test_transformers_alone_loads_it(tmp_path):
    base = save_base(tmp_path / "base", "gemma")
    save_adapter(tmp_path / "adapter", base, "gemma")
    write_merged(tmp_path / "adapter", tmp_path / "merged")
    code = f"""
import sys
sys.modules["peft"] = sys.modules["peft_fishdip"] = None
from transformers import AutoModelForCausalLM
print(AutoModelForCausalLM.from_pretrained({str(tmp_path / "merged")!r}).num_parameters())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) > 3000


@pytest.mark.skipif(not STATUS.exists(), reason="Linux tells how much memory a process has needed at most")
def test_the_model_is_never_in_memory(tmp_path):
    """One model of 60 MB in one file, and far less than a copy of it in memory."""
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 4}
    llama(**sizes).save_pretrained(tmp_path / "base")
    size = (tmp_path / "base/model.safetensors").stat().st_size
    assert size > 55e6
    for path, base in {"small": save_base(tmp_path / "tiny", "llama"), "adapter": tmp_path / "base"}.items():
        save_adapter(tmp_path / path, base, "llama", target_modules=["q_proj", "down_proj"], density=0.01)
    write_merged(tmp_path / "small", tmp_path / "first")  # loads what the first call needs
    write_patch(tmp_path / "small", tmp_path / "first.patch")
    meter = MemoryMeter(torch.device("cpu"))
    write_merged(tmp_path / "adapter", tmp_path / "merged")
    write_patch(tmp_path / "adapter", tmp_path / "patch")
    assert meter.growth() < size / 3
