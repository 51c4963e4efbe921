"""What Houlsby adapters and Compacter refuse."""

import pytest
import torch
from peft import get_peft_model
from transformers import BertConfig, BertModel

from benchmarks.methods import CompacterConfig, HoulsbyConfig

from .bottlenecked import METHODS, batch, filled, layers, logits, same_state, tiny_t5


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
