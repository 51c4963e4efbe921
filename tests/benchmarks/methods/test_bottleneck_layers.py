"""What Houlsby adapters and Compacter are: their places, products, initial weights, and the rule that layers share."""

import copy
import io

import pytest
import torch
from peft import PeftType, get_peft_model

from benchmarks.methods import CompacterConfig, HoulsbyConfig
from benchmarks.methods.bottleneck import HoulsbyLayer
from benchmarks.methods.bottleneck.layer import PHMLinear

from .bottlenecked import fill, filled, layers, layers_of, logits, tiny_t5


def test_adapters_are_behind_self_attention_and_feed_forward_only():
    assert set(layers_of(filled(HoulsbyConfig()).base_model.model)) == {
        *(f"encoder.block.{block}.layer.{sublayer}.dropout" for block in range(2) for sublayer in (0, 1)),
        *(f"decoder.block.{block}.layer.{sublayer}.dropout" for block in range(2) for sublayer in (0, 2)),
    }


@pytest.mark.parametrize(("site", "decoder"), [("self_attention", 0), ("feed_forward", 2)])
def test_a_site_can_be_chosen(site, decoder):
    names = set(layers_of(filled(HoulsbyConfig(sites=[site])).base_model.model.decoder))
    assert names == {f"block.{block}.layer.{decoder}.dropout" for block in range(2)}


def test_houlsby_adapter_by_hand():
    dropout = torch.nn.Dropout(0.5)
    layer = HoulsbyLayer(dropout)
    layer.update_layer("default", HoulsbyConfig(reduction_factor=2, non_linearity="relu"), 4)
    layer.set_adapter("default")
    fill(layer)
    x = torch.randn(3, 4)
    torch.manual_seed(1)
    s = dropout(x)
    torch.manual_seed(1)
    found = layer(x)
    down, up = layer.houlsby_down["default"], layer.houlsby_up["default"]
    bottleneck = (s @ down.weight.T + down.bias).clamp(min=0)
    torch.testing.assert_close(found, s + bottleneck @ up.weight.T + up.bias)


@pytest.mark.parametrize(("phm_dim", "rank"), [(1, 1), (2, 3), (4, 1)])
def test_a_hypercomplex_weight_is_a_sum_of_kronecker_products(phm_dim, rank):
    linear, rule = PHMLinear(12, 8, phm_dim, rank), torch.randn(phm_dim, phm_dim, phm_dim)
    expected = sum(torch.kron(a, left @ right) for a, left, right in zip(rule, linear.left, linear.right, strict=True))
    torch.testing.assert_close(linear.weight(rule), expected)
    x = torch.randn(5, 12)
    torch.testing.assert_close(linear(x, rule), x @ expected + linear.bias)


def test_initial_weights():
    houlsby = get_peft_model(tiny_t5(), HoulsbyConfig(init_range=0.05))
    weights = torch.cat([p.flatten() for n, p in houlsby.named_parameters() if "houlsby" in n and "weight" in n])
    assert weights.std().item() == pytest.approx(0.05, rel=0.05)
    assert all(not p.any() for n, p in houlsby.named_parameters() if "houlsby" in n and "bias" in n)

    compacter = get_peft_model(tiny_t5(), CompacterConfig(phm_init_range=0.01))
    parameters = {n: p for n, p in compacter.named_parameters() if "compacter" in n}
    (rule,) = (p for n, p in parameters.items() if "rule" in n)
    assert rule.std().item() == pytest.approx(0.01, rel=0.3)
    left = torch.cat([p.flatten() for n, p in parameters.items() if "compacter_down" in n and "left" in n])
    bound = (2 * 6 / (128 / 4 + 1)) ** 0.5  # Xavier, gain √2, of a 32 x 1 matrix
    assert 0.95 * bound < left.abs().max() <= bound
    assert all(not p.any() for n, p in parameters.items() if "bias" in n)


def test_a_new_compacter_computes_almost_what_the_base_computes():
    torch.testing.assert_close(logits(get_peft_model(tiny_t5(), CompacterConfig()).eval()), logits(tiny_t5()))


def test_the_hypercomplex_rule_is_one_parameter_of_all_layers():
    model = filled(CompacterConfig())
    assert sum("compacter_rule" in name for name in model.state_dict()) == 1
    rules = {id(layer.rule("default")) for layer in layers_of(model).values()}
    assert rules == {id(parameter) for name, parameter in model.named_parameters() if "compacter_rule" in name}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    before = {name: layer.compacter_up["default"].weight(layer.rule("default")) for name, layer in layers(model)}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter is layers(model)[0][1].rule("default") else None
    optimizer.step()
    for name, layer in layers(model):
        assert not torch.equal(layer.compacter_up["default"].weight(layer.rule("default")), before[name])


@pytest.mark.parametrize("through", ["deepcopy", "pickle"])
def test_a_copy_of_a_model_shares_its_own_rule(through):
    model = filled(CompacterConfig())
    if through == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    expected = logits(model)
    with torch.no_grad():
        layers(model)[0][1].rule("default").zero_()
    assert torch.equal(logits(twin), expected)
    assert len({id(layer.rule("default")) for _, layer in layers(twin)}) == 1


def test_the_methods_are_known_to_peft():
    assert PeftType("HOULSBY") is PeftType.HOULSBY is HoulsbyConfig().peft_type
    assert PeftType("COMPACTER") is PeftType.COMPACTER is CompacterConfig().peft_type
