"""Masks update themselves by examples in families whose models cannot compute several examples in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    CTRLConfig,
    CTRLLMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
)

from peft_fishdip.importance.rows import RowsError

from ...support.models import FAMILIES, VOCABULARY, WIDTH, bert_classifier, classifier_examples, tuned
from .loops import batches, driven, loop, mask_of, overlap


def bart() -> Any:
    both = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 1}
    config = BartConfig(vocab_size=VOCABULARY, d_model=WIDTH, max_position_embeddings=24, dropout=0.0, **both, **ids)
    return BartForConditionalGeneration(config)


def switch_transformers() -> Any:
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "num_experts": 2}
    sparse = {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "router_jitter_noise": 0.0}
    config = SwitchTransformersConfig(
        vocab_size=VOCABULARY, dropout_rate=0.0, decoder_start_token_id=0, **sizes, **sparse
    )
    return SwitchTransformersForConditionalGeneration(config)


def opt() -> Any:
    sizes = {"hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "ffn_dim": 24, "num_hidden_layers": 2}
    return OPTForCausalLM(OPTConfig(vocab_size=VOCABULARY, num_attention_heads=2, dropout=0.0, **sizes))


def ctrl() -> Any:
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0}
    config = CTRLConfig(vocab_size=VOCABULARY, n_embd=WIDTH, dff=24, n_layer=2, n_head=2, n_positions=24, **dropout)
    return CTRLLMHeadModel(config)


KINDS: dict[Callable[[], Any], str] = {bart: "t5", switch_transformers: "t5", opt: "gpt2", ctrl: "gpt2"}


def seeded(build: Callable[[], Any]) -> Any:
    torch.manual_seed(3)
    return build()


@pytest.mark.parametrize("build", KINDS)
def test_the_first_mask_is_that_of_a_scan_of_the_same_examples(build: Callable[[], Any]) -> None:
    examples = FAMILIES[KINDS[build]][1](6)
    model = driven(seeded(build))
    course = loop(model, batches(examples, 6, 1))
    (update,) = course.updates
    other = tuned(seeded(build), delta_scale="auto", num_samples=2)
    expected = other.base_model.update_mask(examples)
    assert update.example_ids == expected.example_ids
    assert overlap(mask_of(model), mask_of(other)) > 0.99


@pytest.mark.parametrize("kind", [RuntimeError, RowsError])
def test_errors_with_several_examples_in_one_pass_are_none_with_one(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise kind("parameters must have one or two dimensions")

    monkeypatch.setattr("peft_fishdip.importance.per_example.PerSampleGradients.of_batch", refused)
    course = loop(driven(bert_classifier()), batches(classifier_examples(6), 6, 1))
    assert len(course.updates[0].example_ids) == 2
