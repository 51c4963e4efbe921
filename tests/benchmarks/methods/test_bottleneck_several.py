"""Several Houlsby adapters or Compacters on one model."""

import torch
from peft import get_peft_model

from benchmarks.methods import CompacterConfig, HoulsbyConfig
from benchmarks.methods.bottleneck import HoulsbyLayer

from .bottlenecked import METHODS, fill, filled, layers, logits, tiny_t5, train


@METHODS
def test_two_adapters_are_switched_summed_and_deleted(config_class):
    ours, theirs = config_class(), config_class(sites=["feed_forward"], reduction_factor=16)
    model = filled(ours)
    model.add_adapter("other", theirs)
    fill(model, "other", salt="other")
    alone = get_peft_model(tiny_t5(), theirs, adapter_name="other").eval()
    fill(alone, "other", salt="other")
    first, second = logits(filled(ours)), logits(alone)
    assert not torch.allclose(first, second)

    assert torch.equal(logits(model), first)
    assert all("other" not in name for name, p in model.named_parameters() if p.requires_grad)
    model.set_adapter("other")
    assert torch.equal(logits(model), second)
    assert all("other" in name for name, p in model.named_parameters() if p.requires_grad)

    model.base_model.set_adapter(["default", "other"])
    assert not torch.allclose(logits(model), first)
    assert not torch.allclose(logits(model), second)

    model.set_adapter("other")
    model.delete_adapter("default")
    assert torch.equal(logits(model), second)
    assert not any("default" in name for name in model.state_dict())
    model.delete_adapter("other")
    assert torch.equal(logits(model.base_model.model), logits(tiny_t5()))


@METHODS
def test_adapters_that_bring_layer_norms_are_switched(config_class):
    config = config_class(modules_to_save=["layer_norm"])
    model = get_peft_model(tiny_t5(), config)
    model.add_adapter("other", config)
    model.set_adapter("other")
    train(model, steps=2)
    trained = logits(model.eval())
    model.set_adapter("default")
    assert not torch.allclose(logits(model), trained)
    model.set_adapter("other")
    assert torch.equal(logits(model), trained)


def test_two_active_adapters_add_up():
    layer, config = HoulsbyLayer(torch.nn.Identity()), HoulsbyConfig(reduction_factor=2)
    for name in ("one", "two"):
        layer.update_layer(name, config, 4)
        fill(layer, name, salt=name)
    s = torch.randn(3, 4)
    outputs = {}
    for active in (["one"], ["two"], ["one", "two"]):
        layer.set_adapter(active)
        outputs[tuple(active)] = layer(s)
    torch.testing.assert_close(outputs["one", "two"], outputs["one",] + outputs["two",] - s)


def test_adapters_have_a_rule_each():
    model = filled(CompacterConfig())
    model.add_adapter("other", CompacterConfig(sites=["feed_forward"], phm_dim=2))
    fed = [layer for _, layer in layers(model) if "other" in layer.compacter_down]
    assert len(fed) == 4
    assert {tuple(layer.rule("default").shape) for layer in fed} == {(4, 4, 4)}
    assert {tuple(layer.rule("other").shape) for layer in fed} == {(2, 2, 2)}
    model.set_adapter("other")
    model.delete_adapter("default")
    assert not any("default" in layer.rule_owners for _, layer in layers(model))
    assert all(isinstance(layer.rule("other"), torch.nn.Parameter) for layer in fed)
