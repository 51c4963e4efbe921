"""While `generate` runs, effective values stand in the base parameters: invariants 1, 2, 3 and 9 hold all the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from peft_fishdip.tuner.generation import generating_merged, temporarily_merged

from ..support.models import UNSCORED, base_bits, flat_of, gpt2, llama, tied_t5, tuned
from .generating import PROMPT, TOKENS, assert_base_is, effective_bits, generate, scores, when, with_adapter

pytestmark = pytest.mark.filterwarnings(UNSCORED)


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


def test_one_layer_that_is_disabled_sees_the_base_while_one_that_is_tied_to_it_does_not() -> None:
    model = with_adapter()
    before = base_bits(model)
    model.base_model.model.lm_head.enable_adapters(False)
    with torch.no_grad():
        logits = model(input_ids=PROMPT, decoder_input_ids=torch.zeros(2, 1, dtype=torch.long)).logits[:, -1]
    torch.testing.assert_close(scores(model)[0][:, 2:], logits[:, 2:], rtol=1e-4, atol=1e-5)
    assert_base_is(model, before)


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
