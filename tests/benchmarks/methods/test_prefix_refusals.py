"""What prefix tuning refuses."""

import pytest
import torch
from transformers import T5EncoderModel

from benchmarks.methods import FullPrefixConfig

from .prefixed import D_MODEL, base_model, batch, logits_of, prefixed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_virtual_tokens": 0}, r"num_virtual_tokens=0 must be a positive int"),
        ({"num_virtual_tokens": True}, r"num_virtual_tokens=True must be a positive int"),
        ({"bottleneck_size": 0}, r"bottleneck_size=0 must be a positive int, such as 512, or None"),
        ({"bottleneck_size": 1.5}, r"bottleneck_size=1.5 must be"),
        ({"sites": []}, r"sites=\[\] must be a list of one or more of 'encoder', 'decoder', 'cross'"),
        ({"sites": "encoder"}, r"sites='encoder' must be a list"),
        ({"sites": ["encoder", "head"]}, r"sites=\['encoder', 'head'\] must be a list"),
        ({"sites": None}, r"sites=None must be a list"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FullPrefixConfig(**options)


def test_a_model_without_the_site_is_refused():
    with pytest.raises(ValueError, match="T5EncoderModel has no attention at 'decoder'; use a T5"):
        prefixed(base_model(T5EncoderModel))


@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_merging_is_refused_and_changes_nothing(merge):
    model = prefixed()
    before = logits_of(model)
    with pytest.raises(ValueError, match=r"a prefix cannot be merged.*unload"):
        getattr(model, merge)()
    assert torch.equal(logits_of(model), before)


def test_several_adapters_in_one_batch_are_refused():
    with pytest.raises(ValueError, match="call the model once for each"):
        prefixed()(**batch(), adapter_names=["default", "default", "__base__"])


def test_other_attention_implementations_are_refused():
    model = prefixed()
    model.get_base_model().config._attn_implementation = "flex_attention"
    model.get_base_model().encoder.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="'flex_attention' cannot have a prefix; load the model with 'sdpa'"):
        model.get_base_model().encoder.block[0].layer[0].SelfAttention(torch.zeros(1, 2, D_MODEL))
