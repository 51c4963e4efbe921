"""While `generate` runs, effective values stand in the base parameters: invariants 1, 2, 3 and 9 hold all the same."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import LogitsProcessorList

from peft_fishdip import FishDipConfig
from peft_fishdip.adapter import base_parameter
from peft_fishdip.tuner.generation import generating_merged, temporarily_merged

from ..support.models import (
    UNSCORED,
    base_bits,
    base_parameters,
    bits,
    flat_of,
    gpt2,
    llama,
    random_scores,
    randomise,
    tied_t5,
    tuned,
)
from ..support.threads import run_together

pytestmark = pytest.mark.filterwarnings(UNSCORED)

PROMPT = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
TOKENS = 6


def generate(model: Any, **options: Any) -> Any:
    model.eval()
    return model.generate(
        input_ids=PROMPT,
        attention_mask=torch.ones_like(PROMPT),
        do_sample=False,
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )


def scores(model: Any, **options: Any) -> Tensor:
    """(tokens, batch, vocabulary)"""
    return torch.stack(generate(model, **options).scores)


def when(step: int, action: Callable[[], Any]) -> dict[str, Any]:
    """Options of `generate` with which it calls `action` before its token `step` is chosen."""
    calls = 0

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        nonlocal calls
        if calls == step:
            action()
        calls += 1
        return logits

    return {"logits_processor": LogitsProcessorList([process])}


def with_adapter(build: Callable[[], nn.Module] = tied_t5, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = tuned(build(), density=0.3, **settings)
    randomise(model, scale=0.3)
    return model


def assert_base_is(model: Any, before: dict[str, Tensor]) -> None:
    found = base_bits(model)
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], bits) for name, bits in before.items())


def effective_bits(model: Any) -> dict[str, Tensor]:
    """The bits of `(base.float() + delta).to(base.dtype)`, while the base parameters hold their own values."""
    tensors = base_parameters(model)
    effective: dict[int, Tensor] = {}
    for name, (positions, deltas) in model.base_model.delta().items():
        total = tensors[name].detach().float().flatten().clone()
        total[positions] += deltas
        effective[id(tensors[name])] = total.to(tensors[name].dtype)
    return {name: bits(effective.get(id(tensor), tensor)) for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("build", [tied_t5, gpt2, llama])
def test_generation_computes_the_same_bits_merged_or_not(build: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    model = with_adapter(lambda: build().to(dtype))
    before = base_bits(model)
    with model.disable_adapter():
        untuned = scores(model)
    unmerged = scores(model)
    assert_base_is(model, before)
    model.merge_adapter()
    merged = scores(model)
    assert torch.equal(unmerged, merged)
    assert not torch.equal(unmerged, untuned)
    model.unmerge_adapter()
    assert_base_is(model, before)


@pytest.mark.parametrize(
    ("build", "task_type"), [(tied_t5, None), (tied_t5, "SEQ_2_SEQ_LM"), (gpt2, None), (gpt2, "CAUSAL_LM")]
)
def test_effective_values_stay_in_the_base_between_all_tokens(
    build: Callable[[], nn.Module], task_type: str | None
) -> None:
    model = with_adapter(build, task_type=task_type)
    before, effective = base_bits(model), effective_bits(model)
    checks: list[int] = []
    for step in range(TOKENS):
        generate(model, **when(step, lambda: (assert_base_is(model, effective), checks.append(0))))
        assert_base_is(model, before)
    assert len(checks) == TOKENS


def test_a_generation_that_fails_restores_the_base() -> None:
    model = with_adapter()
    before, effective = base_bits(model), effective_bits(model)

    def fail() -> None:
        assert_base_is(model, effective)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, **when(2, fail))
    assert_base_is(model, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("after", [False, True])
def test_a_write_that_fails_leaves_no_trace(
    error: type[BaseException], after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an interrupt does, or memory that is too small; at any of the writes of a generation, before or after it."""
    model = with_adapter()
    before, expected = base_bits(model), scores(model)
    write = base_parameter.write

    def fail_at(number: int) -> bool:
        left = number

        def failing(*args: Tensor) -> None:
            nonlocal left
            left -= 1
            if left or after:
                write(*args)
            if not left:
                raise error

        with monkeypatch.context() as patch:
            patch.setattr(base_parameter, "write", failing)
            try:
                generate(model)
            except error:
                return True
        return False

    number = 1
    while fail_at(number):
        with torch.no_grad():
            logits = model(input_ids=PROMPT, decoder_input_ids=torch.zeros(2, 1, dtype=torch.long)).logits[:, -1]
        torch.testing.assert_close(logits[:, 2:], expected[0][:, 2:], rtol=1e-4, atol=1e-5)
        assert torch.equal(scores(model), expected)
        assert_base_is(model, before)
        number += 5
    assert number > 50


def test_one_layer_that_is_disabled_sees_the_base_while_one_that_is_tied_to_it_does_not() -> None:
    model = with_adapter()
    before = base_bits(model)
    model.base_model.model.lm_head.enable_adapters(False)
    with torch.no_grad():
        logits = model(input_ids=PROMPT, decoder_input_ids=torch.zeros(2, 1, dtype=torch.long)).logits[:, -1]
    torch.testing.assert_close(scores(model)[0][:, 2:], logits[:, 2:], rtol=1e-4, atol=1e-5)
    assert_base_is(model, before)


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


class OfAClass(nn.Linear):
    """Its `generate` takes no model."""

    @staticmethod
    def generate(x: Tensor) -> Tensor:
        return x + 1


def test_a_generate_that_is_not_a_method_still_works() -> None:
    model = tuned(nn.Sequential(OfAClass(2, 2)), density=1.0)
    with generating_merged(model.base_model.model):
        assert "generate" not in model.base_model.model.__dict__
    own = OfAClass(2, 2)
    with generating_merged(own):
        assert own.generate(torch.ones(2)).tolist() == [2.0, 2.0]
    assert "generate" not in own.__dict__


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


def test_generation_with_merged_or_disabled_adapters_leaves_them_so() -> None:
    model = with_adapter()
    base = with_adapter().unload()
    model.merge_adapter()
    merged = base_bits(model)
    generate(model)
    assert_base_is(model, merged)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert torch.equal(scores(model), scores(base))


def test_a_compiled_forward_within_a_generation_computes_with_the_values_of_the_adapter() -> None:
    model = with_adapter(lambda: nn.Sequential(nn.Embedding(20, 8), nn.LayerNorm(8), nn.Linear(8, 8)))
    compiled = torch.compile(model.base_model.model, backend="eager")

    def results() -> list[Tensor]:
        with torch.no_grad():
            out = compiled(PROMPT)
        return [out, *torch.autograd.grad(compiled(PROMPT).square().sum(), [flat_of(model)])]

    torch.compiler.reset()
    expected = [model(PROMPT), *torch.autograd.grad(model(PROMPT).square().sum(), [flat_of(model)])]
    for merged in (False, True, False):
        with temporarily_merged(model) if merged else nullcontext():
            for found, wanted in zip(results(), expected, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


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


def test_a_model_that_has_generated_is_freed_at_once() -> None:
    model = with_adapter()
    generate(model)
    base = weakref.ref(model.base_model.model)
    gc.disable()
    try:
        del model
        assert base() is None
    finally:
        gc.enable()
