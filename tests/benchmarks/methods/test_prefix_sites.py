"""Where prefixes are, and how many parameters they have."""

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import MT5Config, MT5ForConditionalGeneration, T5EncoderModel

from benchmarks.methods import FullPrefixConfig

from .prefixed import BOTTLENECK, D_MODEL, INNER, LAYERS, TOKENS, base_model, batch, prefixed, sources, t5_config

SITES = ["encoder", "decoder", "cross"]


@torch.no_grad()
@pytest.mark.parametrize("site", SITES)
def test_each_site_changes_the_logits_and_only_the_encoders_its_output(site):
    base, model = base_model(), prefixed(sites=[site])
    assert not torch.equal(model(**batch()).logits, base(**batch()).logits)
    before = base.encoder(**sources()).last_hidden_state
    after = model.get_base_model().encoder(**sources()).last_hidden_state
    assert torch.equal(before, after) == (site != "encoder")


@torch.no_grad()
def test_pefts_prefix_leaves_the_encoder_alone():
    model = get_peft_model(base_model(), PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=TOKENS))
    encoder = model.get_base_model().encoder
    assert torch.equal(encoder(**sources()).last_hidden_state, base_model().encoder(**sources()).last_hidden_state)


@pytest.mark.parametrize("sites", [SITES, ["decoder", "cross"], ["encoder"]])
def test_number_of_parameters(sites, bottleneck):
    model = prefixed(sites=sites, bottleneck_size=bottleneck)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    direct = len(sites) * LAYERS * 2 * TOKENS * INNER
    trunk = TOKENS * D_MODEL + D_MODEL * BOTTLENECK + BOTTLENECK
    mlp = len(sites) * (trunk + LAYERS * (BOTTLENECK + 1) * 2 * INNER)
    assert trainable == (direct if bottleneck is None else mlp)


def test_works_with_mt5_and_with_an_encoder_alone():
    mt5 = prefixed(base_model(MT5ForConditionalGeneration, t5_config(MT5Config)))
    assert torch.isfinite(mt5(**batch()).loss)
    encoder = base_model(T5EncoderModel)
    before = encoder(**sources()).last_hidden_state
    assert not torch.equal(prefixed(encoder, sites=["encoder"])(**sources()).last_hidden_state, before)


def test_defaults_are_those_of_the_paper():
    config = FullPrefixConfig(sites=("cross", "encoder", "decoder"))
    assert (config.num_virtual_tokens, config.bottleneck_size, config.sites) == (30, 512, SITES)
