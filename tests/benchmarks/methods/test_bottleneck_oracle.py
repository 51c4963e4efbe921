"""Houlsby adapters and Compacter against the library `adapters`.

The numbers in bottleneck_oracle.json are the outputs of the library `adapters` 1.3.0 (with transformers 4.57.6 and
torch 2.13.0), computed by adapters_oracle.py for the weights that fixed_weights.py defines.
"""

import json
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from benchmarks.methods import CompacterConfig, HoulsbyConfig

from .. import tiny
from .bottlenecked import batch, common_name, filled

ORACLE = json.loads(Path(__file__).with_name("bottleneck_oracle.json").read_text(encoding="utf-8"))
CASES = {
    "houlsby": HoulsbyConfig(),
    "houlsby_feed_forward": HoulsbyConfig(sites=["feed_forward"]),
    "compacter": CompacterConfig(non_linearity="gelu"),
    "compacter_gelu_new": CompacterConfig(),
    "compacter_feed_forward": CompacterConfig(non_linearity="gelu", sites=["feed_forward"]),
    "compacter_rank_2": CompacterConfig(non_linearity="gelu", phm_rank=2, phm_dim=2),
}
SMALL = {"d_model": 512, "d_kv": 64, "num_heads": 8, "d_ff": 2048, "num_layers": 6}
LARGE = {"d_model": 1024, "d_kv": 64, "num_heads": 16, "d_ff": 4096, "num_layers": 24}


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
