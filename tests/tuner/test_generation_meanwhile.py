"""What happens while a model generates: changes, copies, training, other generations, and other threads."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from peft_fishdip import FishDipConfig

from ..support.models import UNSCORED, base_bits, flat_of, random_scores, tied_t5
from ..support.threads import run_together
from .generating import PROMPT, TOKENS, assert_base_is, effective_bits, generate, scores, when, with_adapter

pytestmark = pytest.mark.filterwarnings(UNSCORED)


def test_a_copy_made_during_a_call_generates_with_its_own_weights() -> None:
    model = with_adapter()
    expected = scores(model)
    copies: list[Any] = []

    def copy_both() -> None:
        copies.append(copy.deepcopy(model))
        copies.append(pickle.loads(pickle.dumps(model)))

    generate(model, **when(1, copy_both))
    for copied in copies:
        assert torch.equal(scores(copied), expected)
        merged = copied.merge_and_unload()
        assert "generate" not in merged.__dict__
        assert torch.equal(scores(merged), expected)


def on_disabled(model: Any) -> None:
    with model.disable_adapter():
        model(input_ids=PROMPT, decoder_input_ids=PROMPT)


def on_other(model: Any) -> None:
    model.set_adapter("other")


def on_step(model: Any) -> None:
    with torch.no_grad():
        flat_of(model).mul_(-2)


def on_mask(model: Any) -> None:
    model.base_model.set_mask(random_scores(model, seed=3))
    on_step(model)


def on_added(model: Any) -> None:
    """A mask by magnitude and scales by RMS are computed from the base values."""
    config = FishDipConfig(density=0.1, init_mask="magnitude", delta_scale="rms", init_weights=False)
    model.add_adapter("more", config)
    model.set_adapter("more")


def on_merge(model: Any) -> None:
    on_step(model)
    model.merge_adapter()


@pytest.mark.parametrize("change", [on_disabled, on_other, on_step, on_mask, on_added, on_merge])
def test_what_changes_during_a_generation_counts_from_the_next_token(change: Callable[[Any], None]) -> None:
    """The tokens after the change are those of a model that computes with the new values; the cache is the old one."""

    def make() -> Any:
        model = with_adapter()
        model.add_adapter("other", FishDipConfig(density=0.1, target_modules=["q", "layer_norm"], init_weights=False))
        return model

    model, before = make(), base_bits(make())
    found = scores(model, use_cache=False, **when(2, lambda: change(model)))
    if change is on_merge:
        model.unmerge_adapter()
    assert_base_is(model, before)
    old, new = make(), make()
    if change is not on_disabled:
        change(new)
    # without a cache of the decoder only the encoder's states are those of before
    encoded = old.base_model.model.get_encoder()(input_ids=PROMPT)
    expected = scores(old)[:3]
    tokens = torch.cat([torch.zeros(2, 1, dtype=torch.long), expected.argmax(-1).T], dim=1)
    for _ in range(3, TOKENS):
        with torch.no_grad():
            logits = new(encoder_outputs=encoded, decoder_input_ids=tokens).logits[:, -1]
        expected = torch.cat([expected, logits[None]])
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    expected[:, :, 1] = found[:, :, 1]  # the end of the sequence is forbidden by min_new_tokens
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_generation_within_another() -> None:
    model = with_adapter()
    before = base_bits(model)
    expected = scores(model)
    inner: list[Tensor] = []
    assert torch.equal(scores(model, **when(2, lambda: inner.append(scores(model)))), expected)
    assert torch.equal(inner[0], expected)
    assert_base_is(model, before)


def test_training_within_a_generation() -> None:
    """A step of another thread, as it were: its gradients are right, and it leaves the base alone."""
    model = with_adapter()
    before, effective = base_bits(model), effective_bits(model)

    def gradient() -> Tensor:
        with torch.enable_grad():
            loss = model(input_ids=PROMPT, labels=PROMPT).loss
            return torch.autograd.grad(loss, [flat_of(model)])[0]

    expected = gradient()
    inner: list[Tensor] = []

    def step() -> None:
        assert_base_is(model, effective)
        inner.append(gradient())
        assert_base_is(model, effective)

    generate(model, **when(2, step))
    torch.testing.assert_close(inner[0], expected, rtol=1e-5, atol=1e-7)
    assert_base_is(model, before)


def test_an_adapter_is_saved_and_copied_within_a_generation_as_at_any_time(tmp_path: Path) -> None:
    model = with_adapter()
    expected = scores(model)
    copies: list[Any] = []
    generate(model, **when(2, lambda: (model.save_pretrained(tmp_path), copies.append(copy.deepcopy(model)))))
    assert torch.equal(scores(copies[0]), expected)
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(tied_t5(), str(tmp_path))  # warns if the base is another one
    assert torch.equal(scores(loaded), expected)


def test_threads_that_generate_and_train_do_not_disturb_each_other(request: pytest.FixtureRequest) -> None:
    model = with_adapter()
    before = base_bits(model)
    expected = scores(model)

    def gradient() -> Tensor:
        loss = model(input_ids=PROMPT, labels=PROMPT).loss
        return torch.autograd.grad(loss, [flat_of(model)])[0]

    expected_gradient = gradient()

    def generating() -> None:
        for _ in range(4):
            assert torch.equal(scores(model), expected)

    def training() -> None:
        for _ in range(8):
            torch.testing.assert_close(gradient(), expected_gradient, rtol=1e-5, atol=1e-7)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    request.addfinalizer(lambda: sys.setswitchinterval(switch))
    run_together([generating, training, generating])
    assert_base_is(model, before)
