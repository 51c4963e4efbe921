"""Losses that compute logits from the weight of the output embeddings, as fused ones do, see and train its deltas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from ..support.models import (
    bert_classifier,
    flat_of,
    gpt2,
    ignoring_unscored_mask,
    llama,
    lm_examples,
    padded,
    randomise,
    tuned,
)

BASES = {"untied": llama, "tied": lambda: llama(tie_word_embeddings=True), "gpt2": gpt2}
BATCH = padded(lm_examples(3))


def read_logits(model: Any, head: Any) -> Tensor:
    """The logits of a language model, from the weight of its head."""
    backbone = model.get_base_model().base_model
    inputs = {name: BATCH[name] for name in ("input_ids", "attention_mask")}
    return F.linear(backbone(**inputs).last_hidden_state, head.weight, head.bias)


def heads(model: Any) -> dict[str, Any]:
    return {"attribute": model.get_base_model().lm_head, "method": model.get_output_embeddings()}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("way", ["attribute", "method"])
def test_a_weight_that_is_read_has_the_deltas_and_trains_them(base: str, way: str) -> None:
    model = tuned(BASES[base](), density=0.3)
    randomise(model)
    head = heads(model)[way]
    gradients = []
    for logits in (model(**BATCH).logits, read_logits(model, head)):
        with ignoring_unscored_mask():
            logits.square().mean().backward()
        gradients.append(flat_of(model).grad)
        flat_of(model).grad = None
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        assert torch.equal(model(**BATCH).logits, read_logits(model, head))


@pytest.mark.parametrize("way", ["attribute", "method"])
def test_a_weight_that_is_read_is_the_base_one_while_adapters_are_disabled_or_merged(way: str) -> None:
    model = tuned(llama(), density=0.3)
    before = model.get_base_model().lm_head.base_layer.weight
    values = before.detach().clone()
    randomise(model)
    head = heads(model)[way]
    with model.disable_adapter():
        assert head.weight is before
        assert torch.equal(before, values)
    effective = head.weight.detach()
    assert not torch.equal(effective, values)
    model.merge_adapter()
    assert head.weight is before
    assert torch.equal(before, effective)
    model.unmerge_adapter()
    assert torch.equal(head.weight, effective)
    assert torch.equal(before, values)


def test_output_embeddings_are_no_layer_of_peft_and_can_be_called() -> None:
    model = tuned(llama(), density=0.3)
    randomise(model)
    head, x = model.get_output_embeddings(), torch.randn(2, 16)
    assert not isinstance(head, BaseTunerLayer)
    assert torch.equal(head(x), model.get_base_model().lm_head(x))
    assert (head.in_features, head.out_features) == (16, 48)


def test_a_model_without_a_targeted_head_keeps_what_it_has() -> None:
    model = tuned(llama(), density=0.3, exclude_modules=["lm_head"])
    assert model.get_output_embeddings() is model.get_base_model().lm_head
    assert tuned(bert_classifier()).get_output_embeddings() is None
    assert tuned(torch.nn.Sequential(torch.nn.Linear(6, 6))).get_output_embeddings() is None
