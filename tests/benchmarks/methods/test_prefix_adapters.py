"""Prefixes are saved, loaded, switched, deleted and copied."""

import copy

import pytest
import torch
from peft import PeftModel

from benchmarks.methods import FullPrefixConfig

from .prefixed import INNER, LAYERS, TOKENS, base_model, logits_of, prefixed


def test_a_loaded_adapter_computes_the_same_bits(tmp_path, bottleneck):
    model = prefixed(bottleneck_size=bottleneck)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base_model(), str(tmp_path), adapter_name="again")
    assert torch.equal(logits_of(again), logits_of(model))
    assert not any(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize("loaded", ["on the meta device first", "by transformers"])
def test_other_loaders_bring_the_same_tensors(tmp_path, bottleneck, loaded):
    model = prefixed(bottleneck_size=bottleneck)
    model.save_pretrained(tmp_path)
    again = base_model()
    if loaded == "by transformers":
        again.load_adapter(str(tmp_path))
    else:
        again = PeftModel.from_pretrained(again, str(tmp_path), low_cpu_mem_usage=True)
    tensors = {name: tensor for name, tensor in again.named_parameters() if ".full_prefix_" in name}
    saved = {name: tensor for name, tensor in model.named_parameters() if ".full_prefix_" in name}
    assert len(tensors) == len(saved)
    assert all(torch.equal(a, b) for a, b in zip(tensors.values(), saved.values(), strict=True))
    # tensors at other addresses may be multiplied in another order
    torch.testing.assert_close(logits_of(again), logits_of(model), rtol=1e-4, atol=1e-4)


def test_a_prefix_without_its_mlp_computes_the_same_bits_and_is_smaller(tmp_path):
    model = prefixed()
    before = logits_of(model)
    model.base_model.drop_reparametrisation()
    assert torch.equal(logits_of(model), before)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable == 3 * LAYERS * 2 * TOKENS * INNER
    model.save_pretrained(tmp_path)
    assert torch.equal(logits_of(PeftModel.from_pretrained(base_model(), str(tmp_path))), before)
    with pytest.raises(ValueError, match="no adapter 'x'; there are default"):
        model.base_model.drop_reparametrisation("x")


def test_adapters_are_switched_disabled_and_deleted(bottleneck):
    base, model = logits_of(base_model()), prefixed(bottleneck_size=bottleneck)
    first = logits_of(model)
    model.add_adapter("second", FullPrefixConfig(num_virtual_tokens=2, bottleneck_size=None, sites=["cross"]))
    assert torch.equal(logits_of(model), first)
    model.set_adapter("second")
    second = logits_of(model)
    assert not torch.equal(second, first)
    assert {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad} == {"second"}
    model.base_model.set_adapter(["default", "second"])
    both = logits_of(model)
    assert not torch.equal(both, first)
    assert not torch.equal(both, second)
    with model.disable_adapter():
        assert torch.equal(logits_of(model), base)
    model.set_adapter("default")
    assert torch.equal(logits_of(model), first)
    model.delete_adapter("second")
    assert torch.equal(logits_of(model), first)
    assert torch.equal(logits_of(model.unload()), base)


def test_a_deep_copy_shares_nothing_with_its_model():
    model = prefixed()
    twin = copy.deepcopy(model)
    before = logits_of(twin)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(logits_of(twin), before)
