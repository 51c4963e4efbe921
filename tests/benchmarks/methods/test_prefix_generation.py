"""Prefixes in generation and under padding."""

import pytest
import torch

from .prefixed import base_model, batch, prefixed, sources


@torch.no_grad()
def test_generation_with_a_cache_is_what_teacher_forcing_finds_likeliest(bottleneck, attention):
    model = prefixed(base_model(attention=attention), bottleneck_size=bottleneck)
    generated = model.generate(**sources(), max_new_tokens=9, do_sample=False, eos_token_id=None)
    assert len(set(generated.flatten().tolist())) > 5
    logits = model(**sources(), decoder_input_ids=generated[:, :-1], use_cache=False).logits
    assert torch.equal(logits.argmax(-1), generated[:, 1:])


@torch.no_grad()
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"cache_implementation": "static", "disable_compile": True}])
def test_beams_and_static_caches_find_what_no_cache_finds(options):
    model = prefixed()
    cached = model.generate(**sources(), max_new_tokens=6, eos_token_id=None, **options)
    plain = model.generate(
        **sources(), max_new_tokens=6, eos_token_id=None, use_cache=False, num_beams=options.get("num_beams", 1)
    )
    assert torch.equal(cached, plain)


@torch.no_grad()
def test_caches_hold_the_words_alone():
    inputs = batch()
    caches = prefixed()(**inputs, use_cache=True).past_key_values
    assert caches.self_attention_cache.get_seq_length() == inputs["labels"].shape[1]
    assert caches.cross_attention_cache.get_seq_length() == inputs["input_ids"].shape[1]


@torch.no_grad()
def test_a_padded_batch_gives_what_its_rows_give(attention):
    model = prefixed(base_model(attention=attention))
    inputs = batch()
    padded = model(**inputs).logits
    for row, length in enumerate(inputs["attention_mask"].sum(1)):
        alone = model(input_ids=inputs["input_ids"][row : row + 1, :length], labels=inputs["labels"][row : row + 1])
        torch.testing.assert_close(alone.logits[0], padded[row], rtol=1e-4, atol=1e-4)
