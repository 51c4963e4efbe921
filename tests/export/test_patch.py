"""A patch makes the merged model of the base model's checkpoint, bit by bit, and its inverse the base model again."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from peft_fishdip.export import read_patch, write_patch

from ..support.models import llama
from .saved import BUILDERS, adapted, apply_patch, assert_same_bits, save_adapter, save_base, tensors_of

CASES = [(family, torch.float32) for family in BUILDERS] + [("t5", torch.bfloat16), ("qwen3_moe", torch.float16)]


@pytest.mark.parametrize(("family", "dtype"), CASES)
def test_a_patch_makes_the_merged_checkpoint_and_its_inverse_the_base(family, dtype, tmp_path):
    base = save_base(tmp_path / "base", family, dtype)
    model = save_adapter(tmp_path / "adapter", base, family)
    written = write_patch(tmp_path / "adapter", tmp_path / "patch", inverse=tmp_path / "inverse")
    before = tensors_of(base)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = tensors_of(tmp_path / "merged")
    patched = apply_patch(before, tmp_path / "patch")
    assert_same_bits(patched, merged)
    assert_same_bits(apply_patch(patched, tmp_path / "inverse"), before)
    entries = sum(int((before[name] != tensor).sum()) for name, tensor in merged.items())
    assert written.entries == entries > 300
    assert written.tensors == sum(not torch.equal(before[name], tensor) for name, tensor in merged.items())


def test_a_patch_is_read_in_the_fields_that_vllm_wants(tmp_path):
    base = save_base(tmp_path / "base", "llama", torch.bfloat16)
    save_adapter(tmp_path / "adapter", base, "llama")
    write_patch(tmp_path / "adapter", tmp_path / "patch")
    patches = read_patch(tmp_path / "patch")
    on_disk, expected = tensors_of(base), apply_patch(tensors_of(base), tmp_path / "patch")
    for name, shape, dtype, values, indices in patches:  # the order of CheckpointWeightPatch
        assert (shape, dtype) == (tuple(on_disk[name].shape), on_disk[name].dtype) == (shape, values.dtype)
        assert indices.dtype == torch.int32  # which SparseNCCLTrainerWeightTransferEngine demands
        assert torch.equal(expected[name].view(-1)[indices.long()], values)
    assert len(patches) == len({patch.name for patch in patches})


@pytest.mark.parametrize("family", ["t5", "qwen3_moe"])
def test_a_compact_adapter_of_a_half_precision_base_is_patched_alike(family, tmp_path):
    base = save_base(tmp_path / "base", family, torch.bfloat16)
    model = save_adapter(tmp_path / "adapter", base, family)
    write_patch(tmp_path / "adapter", tmp_path / "patch")
    model.requires_grad_(False)
    model.peft_config["default"].compact = True
    model.save_pretrained(tmp_path / "compact")
    assert "bfloat16" in str(model.peft_config["default"].compact_storage)
    write_patch(tmp_path / "compact", tmp_path / "other", inverse=tmp_path / "inverse")
    patched = apply_patch(tensors_of(base), tmp_path / "other")
    assert_same_bits(patched, apply_patch(tensors_of(base), tmp_path / "patch"))
    assert_same_bits(apply_patch(patched, tmp_path / "inverse"), tensors_of(base))


def test_tensors_without_a_change_are_left_out(tmp_path):
    base = save_base(tmp_path / "base", "llama")
    save_adapter(tmp_path / "adapter", base, "llama", target_modules=["q_proj"])
    write_patch(tmp_path / "adapter", tmp_path / "patch")
    names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2)]
    assert sorted(patch.name for patch in read_patch(tmp_path / "patch")) == names


def test_names_are_those_on_disk(tmp_path):
    """A checkpoint of the model without its head lacks the prefix that its parameters have in the model with it."""
    llama(tie_word_embeddings=True).model.save_pretrained(tmp_path / "base")
    model = save_adapter(tmp_path / "adapter", tmp_path / "base", "llama")
    assert "model.embed_tokens.weight" in model.base_model.delta()
    write_patch(tmp_path / "adapter", tmp_path / "patch")
    assert "embed_tokens.weight" in {patch.name for patch in read_patch(tmp_path / "patch")}
    save_file(apply_patch(tensors_of(tmp_path / "base"), tmp_path / "patch"), tmp_path / "base/model.safetensors")
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert_same_bits(dict(served.state_dict()), dict(model.merge_and_unload().state_dict()))


def test_a_tied_parameter_is_patched_under_each_of_its_names_on_disk(tmp_path):
    base = save_base(tmp_path / "base", "t5")
    file = base / "model.safetensors"
    copies = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]
    tensors = load_file(file)
    save_file({**tensors, **{name: tensors["shared.weight"].clone() for name in copies}}, file, {"format": "pt"})
    model = save_adapter(tmp_path / "adapter", base, "t5")
    write_patch(tmp_path / "adapter", tmp_path / "patch")
    patched = apply_patch(tensors_of(base), tmp_path / "patch")
    merged = model.merge_and_unload().state_dict()
    assert_same_bits({name: patched[name] for name in copies}, {name: merged[name] for name in copies})


def test_the_base_may_have_another_place(tmp_path):
    base = save_base(tmp_path / "base", "llama")
    save_adapter(tmp_path / "adapter", base, "llama")
    write_patch(tmp_path / "adapter", tmp_path / "expected")
    os.rename(base, tmp_path / "moved")
    with pytest.raises(ValueError, match=r"base' is no folder, and the Hub does not give it .*--model"):
        write_patch(tmp_path / "adapter", tmp_path / "patch")
    write_patch(tmp_path / "adapter", tmp_path / "patch", model=str(tmp_path / "moved"))
    assert load_file(tmp_path / "patch").keys() == load_file(tmp_path / "expected").keys()


def test_another_base_is_warned_of(tmp_path):
    base = save_base(tmp_path / "base", "llama")
    save_adapter(tmp_path / "adapter", base, "llama")
    tensors = tensors_of(base)
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match=r"1 of 21 targeted parameters differ: 'model.norm.weight' has other values"):
        write_patch(tmp_path / "adapter", tmp_path / "patch")
    assert_same_bits(  # the change of the base stays
        apply_patch(tensors, tmp_path / "patch"), dict(adapted_over(base, tmp_path / "adapter").state_dict())
    )


def adapted_over(base, adapter):
    model = adapted(base, "llama")
    with pytest.warns(UserWarning, match="is not the one"):
        model.load_adapter(adapter, "other")
    model.set_adapter("other")
    return model.merge_and_unload(adapter_names=["other"])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_damaged_patch_is_not_read(share, tmp_path):
    base = save_base(tmp_path / "base", "llama")
    save_adapter(tmp_path / "adapter", base, "llama")
    write_patch(tmp_path / "adapter", tmp_path / "patch")
    content = (tmp_path / "patch").read_bytes()
    at = int(share * len(content))
    flipped = content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
    damages = [content[:at], flipped, content[:at] + content[at + 1 :]]
    for damaged in damages:
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(ValueError, match="is no patch of a checkpoint, or is damaged"):
            read_patch(tmp_path / "damaged")


def test_other_safetensors_are_no_patch(tmp_path):
    base = save_base(tmp_path / "base", "llama")
    with pytest.raises(ValueError, match="is no patch of a checkpoint"):
        read_patch(base / "model.safetensors")
