"""Houlsby adapters and Compacter.

The numbers in bottleneck_oracle.json are the outputs of the library `adapters` 1.3.0 (with transformers 4.57.6 and
torch 2.13.0), computed by adapters_oracle.py for the weights that fixed_weights.py defines.
"""

import copy
import io
import json
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from benchmarks.methods import CompacterConfig, HoulsbyConfig
from benchmarks.methods.bottleneck import HoulsbyLayer
from benchmarks.methods.bottleneck.layer import BottleneckLayer, PHMLinear

from .. import tiny
from .fixed_weights import GEOMETRY, INPUT_IDS, LABELS, fixed

ORACLE = json.loads(Path(__file__).with_name("bottleneck_oracle.json").read_text(encoding="utf-8"))
CASES = {
    "houlsby": HoulsbyConfig(),
    "houlsby_feed_forward": HoulsbyConfig(sites=["feed_forward"]),
    "compacter": CompacterConfig(non_linearity="gelu"),
    "compacter_gelu_new": CompacterConfig(),
    "compacter_feed_forward": CompacterConfig(non_linearity="gelu", sites=["feed_forward"]),
    "compacter_rank_2": CompacterConfig(non_linearity="gelu", phm_rank=2, phm_dim=2),
}
METHODS = pytest.mark.parametrize("config_class", [HoulsbyConfig, CompacterConfig])
SMALL = {"d_model": 512, "d_kv": 64, "num_heads": 8, "d_ff": 2048, "num_layers": 6}
LARGE = {"d_model": 1024, "d_kv": 64, "num_heads": 16, "d_ff": 4096, "num_layers": 24}


def tiny_t5(**changes):
    model = tiny.t5(**{**GEOMETRY, "dropout_rate": 0.0, **changes})
    fill(model)
    return model.eval()


@torch.no_grad()
def fill(model, adapter_name="default", salt=""):
    """Give all parameters of the base, and those of the adapter, their fixed values."""
    for name, parameter in model.named_parameters():
        name = name.removeprefix("base_model.model.")
        if ".dropout." not in name:
            parameter.copy_(fixed(name, parameter.shape))
        elif adapter_name in name.split("."):
            parameter.copy_(fixed(common_name(name, adapter_name) + salt, parameter.shape))


def common_name(name, adapter_name="default"):
    """'encoder.block.0.layer.0.dropout.houlsby_down.default.weight' -> 'encoder.block.0.layer.0.down.weight'"""
    if "compacter_rule" in name:
        return "rule"
    for method in ("houlsby", "compacter"):
        name = name.replace(f"dropout.{method}_", "")
    return name.replace(f".{adapter_name}.", ".")


def filled(config, **changes):
    model = get_peft_model(tiny_t5(**changes), config)
    fill(model)
    return model.eval()


def batch():
    input_ids = torch.tensor(INPUT_IDS)
    return {"input_ids": input_ids, "attention_mask": input_ids.ne(0).long(), "labels": torch.tensor(LABELS)}


@torch.no_grad()
def logits(model):
    return model(**batch()).logits


def layers_of(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, BottleneckLayer)}


def layers(model):
    return list(layers_of(model).items())


def same_state(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ----- against the library `adapters` -----------------------------------------------------------------------------


def count_on_meta(geometry, config):
    with torch.device("meta"):
        model = tiny.t5(**geometry)
    return get_peft_model(model, config).get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("case", CASES)
def test_the_library_counts_as_many_parameters_in_t5_small(case):
    assert count_on_meta(SMALL, CASES[case]) == ORACLE[case]["t5_small_count"]


@pytest.mark.parametrize(
    ("geometry", "config", "expected"),
    [
        (SMALL, HoulsbyConfig(), 24 * (2 * 512 * 32 + 32 + 512)),
        (SMALL, CompacterConfig(), 24 * (2 * (512 + 16) + 16 + 512) + 64),
        (LARGE, HoulsbyConfig(), 12_687_360),
        (LARGE, HoulsbyConfig(reduction_factor=32), 6_392_832),
        (LARGE, CompacterConfig(), 304_192),
        (LARGE, CompacterConfig(sites=["feed_forward"]), 152_128),
        (LARGE, CompacterConfig(modules_to_save=["layer_norm"]), 304_192 + (24 * 5 + 2) * 1024),
    ],
)
def test_counts(geometry, config, expected):
    assert count_on_meta(geometry, config) == expected


@pytest.mark.parametrize("case", CASES)
def test_the_library_computes_the_same_outputs_and_gradients(case):
    expected, model = ORACLE[case], filled(CASES[case])
    result = model(**batch())
    torch.testing.assert_close(result.loss.item(), expected["loss"], rtol=0, atol=1e-5)
    torch.testing.assert_close(result.logits[:, :, ::8], torch.tensor(expected["logits"]), rtol=0, atol=1e-5)

    result.loss.backward()
    squares = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = ".".join(common_name(name.removeprefix("base_model.model.")).split(".")[-2:])
            squares[part] = squares.get(part, 0) + parameter.grad.double().square().sum().item()
    norms = {part: square**0.5 for part, square in squares.items()}
    assert norms == pytest.approx(expected["gradient_norms"], rel=1e-4)


# ----- what the adapters are --------------------------------------------------------------------------------------


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


# ----- saving and loading -----------------------------------------------------------------------------------------


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


# ----- the base stays as it is ------------------------------------------------------------------------------------


@METHODS
def test_disabled_and_unloaded_adapters_leave_the_base(config_class):
    base, model = tiny_t5(), filled(config_class())
    assert not torch.allclose(logits(model), logits(base))
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(base))
    adapted = logits(model)
    assert not torch.equal(adapted, logits(base))
    unloaded = model.unload()
    assert torch.equal(logits(unloaded), logits(base))
    assert same_state(unloaded.state_dict(), base.state_dict())
    assert [type(m) for m in unloaded.modules()] == [type(m) for m in base.modules()]


def train(model, steps=20):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@METHODS
@pytest.mark.parametrize("modules_to_save", [None, ["layer_norm"]])
def test_training_lowers_the_loss_and_changes_what_is_trainable(config_class, modules_to_save):
    model = get_peft_model(tiny_t5(dropout_rate=0.1), config_class(modules_to_save=modules_to_save)).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    losses = train(model, steps=30)
    assert losses[-1] < losses[0] - 0.5
    for name, parameter in model.named_parameters():
        new = ".houlsby_" in name or ".compacter_" in name or ".modules_to_save." in name
        assert torch.equal(parameter, before[name]) == (not new), name


@METHODS
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(config_class, reentrant):
    def gradients(checkpointing):
        model, calls = filled(config_class(), use_cache=False).train(), []
        layers(model)[0][1].register_forward_hook(lambda *_: calls.append(1))
        if checkpointing:
            model.base_model.model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(**batch()).loss.backward()
        assert len(calls) == 1 + checkpointing
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    found, expected = gradients(True), gradients(False)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@METHODS
def test_greedy_generation_with_cache_follows_the_teacher_forced_logits(config_class):
    model = filled(config_class(task_type="SEQ_2_SEQ_LM"))
    inputs = {name: tensor for name, tensor in batch().items() if name != "labels"}
    generated = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    with torch.no_grad():
        forced = model(**inputs, decoder_input_ids=generated[:, :-1]).logits
    forced[..., GEOMETRY["eos_token_id"]] = -torch.inf  # as min_new_tokens does
    assert generated.shape == (2, 7)
    assert torch.equal(generated[:, 1:], forced.argmax(-1))
    with model.disable_adapter():
        assert not torch.equal(generated, model.generate(**inputs, max_new_tokens=6, min_new_tokens=6))


@METHODS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_base_in_half_precision(config_class, dtype, autocast):
    model = get_peft_model(tiny_t5().to(dtype), config_class(), autocast_adapter_dtype=autocast)
    fill(model)
    kept = torch.float32 if autocast else dtype
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {kept}
    result = model(**batch())
    result.loss.backward()
    assert result.logits.dtype == dtype
    assert layers(model)[0][1](torch.ones(1, 128, dtype=dtype)).dtype == dtype
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    torch.testing.assert_close(result.logits.float(), logits(filled(config_class())), rtol=0, atol=0.1)


@METHODS
def test_autocast_keeps_the_adapter_and_the_sum_in_float32(config_class):
    model = filled(config_class())
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch()).loss
    loss.backward()
    assert {p.grad.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert loss.item() == pytest.approx(filled(config_class())(**batch()).loss.item(), abs=0.05)


# ----- several adapters -------------------------------------------------------------------------------------------


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


# ----- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config_class", "field", "value", "remedy"),
    [
        (HoulsbyConfig, "sites", ["cross_attention"], "self_attention, feed_forward"),
        (HoulsbyConfig, "sites", [], "one or more"),
        (HoulsbyConfig, "sites", "feed_forward", "must be a list"),
        (HoulsbyConfig, "reduction_factor", 0, "positive int"),
        (HoulsbyConfig, "reduction_factor", 1.5, "positive int"),
        (HoulsbyConfig, "non_linearity", "swisch", "choose one of gelu, .*swish"),
        (HoulsbyConfig, "non_linearity", ["relu"], "choose one of"),
        (HoulsbyConfig, "init_range", 0.0, "positive number"),
        (HoulsbyConfig, "init_range", float("nan"), "positive number"),
        (CompacterConfig, "phm_dim", -4, "positive int"),
        (CompacterConfig, "phm_rank", True, "positive int"),
        (CompacterConfig, "phm_init_range", "small", "positive number"),
    ],
)
def test_bad_values_are_refused(config_class, field, value, remedy):
    with pytest.raises(ValueError, match=rf"^{field}=.*{remedy}") as refusal:
        config_class(**{field: value})
    assert repr(value) in str(refusal.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (HoulsbyConfig(reduction_factor=24), "reduction_factor=24 does not divide d_model=128; choose"),
        (CompacterConfig(reduction_factor=48), "reduction_factor=48 does not divide d_model=128; choose"),
        (CompacterConfig(phm_dim=3), "phm_dim=3 does not divide d_model 128; choose"),
        (CompacterConfig(reduction_factor=64), "phm_dim=4 does not divide the bottleneck's width 2; choose"),
    ],
)
def test_widths_that_do_not_divide_are_refused_before_anything_changes(config, message):
    base = tiny_t5()
    with pytest.raises(ValueError, match=message):
        get_peft_model(base, config)
    assert same_state(base.state_dict(), tiny_t5().state_dict())

    model = filled(type(config)())
    before = model.state_dict()
    with pytest.raises(ValueError, match=message):
        model.add_adapter("other", config)
    assert same_state(model.state_dict(), before)
    assert list(model.peft_config) == ["default"]


@METHODS
def test_a_model_that_is_no_t5_is_refused(config_class):
    bert = BertModel(
        BertConfig(vocab_size=9, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    with pytest.raises(ValueError, match=r"sites=.*BertModel has no such sublayers.*take a T5"):
        get_peft_model(bert, config_class())


@METHODS
def test_merging_is_refused(config_class):
    model = filled(config_class())
    expected = logits(model)
    for merge in (model.merge_and_unload, model.merge_adapter, layers(model)[0][1].merge):
        with pytest.raises(ValueError, match=r"cannot be merged.*unload\(\)"):
            merge()
    model.unmerge_adapter()
    assert torch.equal(logits(model), expected)


@METHODS
def test_different_adapters_in_one_batch_are_refused(config_class):
    with pytest.raises(ValueError, match=r"adapter_names: .* set_adapter"):
        filled(config_class())(**batch(), adapter_names=["default", "__base__"])


def test_the_methods_are_known_to_peft():
    assert PeftType("HOULSBY") is PeftType.HOULSBY is HoulsbyConfig().peft_type
    assert PeftType("COMPACTER") is PeftType.COMPACTER is CompacterConfig().peft_type
