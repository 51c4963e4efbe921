"""What cannot be exported is refused with a remedy, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from peft_fishdip.export import write_merged, write_patch

from ..support.models import flat_of, llama, tuned
from .saved import save_adapter, save_base, tensors_of

WAYS = pytest.mark.parametrize("write", [write_patch, write_merged])


@pytest.fixture
def place(tmp_path):
    """A folder with a base model and an adapter."""
    save_adapter(tmp_path / "adapter", save_base(tmp_path / "base", "llama"), "llama")
    return tmp_path


def refused(place, write, message, adapter="adapter", error=ValueError, **options):
    before = sorted(place.rglob("*"))
    with pytest.raises(error, match=message):
        write(place / adapter, place / "out", **options)
    assert sorted(place.rglob("*")) == before


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


@WAYS
def test_names_that_are_taken(place, write):
    (place / "out").mkdir()
    refused(place, write, r"out exists; give another name", error=FileExistsError)


@WAYS
def test_a_folder_that_is_not_there(place, write):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none; create it first"):
        write(place / "adapter", place / "none" / "out")


def test_a_patch_and_an_inverse_of_one_name(place):
    refused(place, write_patch, "need different names", error=FileExistsError, inverse=place / "out")


@WAYS
def test_what_is_no_adapter(place, write):
    refused(place, write, "base has no adapter_config.json; pass the folder", adapter="base")
    get_peft_model(llama(), LoraConfig(target_modules=["q_proj"])).save_pretrained(place / "lora")
    refused(place, write, r"lora is an adapter of the type 'LORA', not FISHDIP", adapter="lora")
    edit(place / "adapter/adapter_config.json", base_model_name_or_path=None)
    refused(place, write, r"does not name its base model; pass model \(--model\)")


@WAYS
def test_modules_that_were_trained_whole(place, write):
    model = tuned(llama(), task_type="CAUSAL_LM", modules_to_save=["lm_head"], target_modules=["q_proj"])
    model.save_pretrained(place / "whole")
    refused(place, write, r"modules that were trained whole \(lm_head\).*merge_and_unload", adapter="whole")


@WAYS
def test_a_damaged_adapter(place, write):
    file = place / "adapter/adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    refused(place, write, "damaged")


@WAYS
def test_a_base_model_of_another_size(place, write):
    llama(hidden_size=32).save_pretrained(place / "larger")
    refused(place, write, "made for another model|shape", model=str(place / "larger"))


@WAYS
def test_a_file_that_lacks_a_tensor_or_has_another_shape(place, write):
    tensors = tensors_of(place / "base")
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, place / "base/model.safetensors", {"format": "pt"})
    refused(place, write, r"have no tensor for 'model.norm.weight' \(1 such\)")
    save_file({**tensors, "model.norm.weight": norm[:8].clone()}, place / "base/model.safetensors", {"format": "pt"})
    refused(place, write, r"'model.norm.weight' of .* is torch.float32 of shape \(8,\)")


@WAYS
def test_files_of_the_base_that_cannot_be_read(place, write):
    edit(place / "base/config.json", quantization_config={"quant_method": "fp8"})
    refused(place, write, "are quantized on disk.*quantized from")
    edit(place / "base/config.json", quantization_config={})
    (place / "base/config.json").write_text("[")
    refused(place, write, "config.json is no JSON")
    (place / "base/config.json").write_text("[]")
    refused(place, write, "holds list, not an object")
    (place / "base/config.json").unlink()
    refused(place, write, "has no config.json")


@WAYS
def test_weights_of_the_base_that_cannot_be_read(place, write):
    weights = place / "base/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused(place, write, "model.safetensors is damaged")
    weights.rename(place / "base/pytorch_model.bin")
    refused(place, write, "has no model.safetensors: load it with transformers")
    index = place / "base/model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../adapter/adapter_model.safetensors"}}')
    refused(place, write, r"names the file 'adapter_model.safetensors', which is not beside it")
    index.write_text('{"weight_map": ["a"]}')
    refused(place, write, "has no weight_map from tensors to files")


@WAYS
def test_values_that_the_dtype_of_the_files_cannot_hold(place, write):
    base = save_base(place / "half", "llama", torch.float16)
    model = tuned(llama(), task_type="CAUSAL_LM")
    with torch.no_grad():
        flat_of(model)[5] = 1e6
    model.save_pretrained(place / "large")
    refused(place, write, r"would be inf at flat position \d+: the adapter has diverged", "large", model=str(base))


def test_a_patch_that_would_change_nothing(place):
    tuned(llama(), task_type="CAUSAL_LM").save_pretrained(place / "new")
    refused(place, write_patch, "changes no value", adapter="new", model=str(place / "base"))


@WAYS
def test_a_class_that_nothing_names(place, write):
    edit(place / "adapter/adapter_config.json", task_type=None, auto_mapping=None)
    edit(place / "base/config.json", architectures=None)
    refused(place, write, "names a class of transformers .*set task_type")
