"""Invariants 2 and 3: one formula for effective weights in training, loading and merging; the base itself at init."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from peft_fishdip import FishDipLayer

from ..support.models import (
    FAMILIES,
    Attention,
    Convolutions,
    bert_classifier,
    bits,
    flat_of,
    gpt2,
    ignoring_unscored_mask,
    padded,
    randomise,
    tied_t5,
    tuned,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def batch_for(model: nn.Module, dtype: torch.dtype = torch.float32) -> Any:
    if isinstance(model, Convolutions):
        return {"x": torch.randn(2, 2, 6, 6).to(dtype)}
    if isinstance(model, Attention):
        return {"ids": torch.randint(1, 40, (2, 5))}
    families = {"T5ForConditionalGeneration": "t5", "GPT2LMHeadModel": "gpt2"}
    families |= dict.fromkeys(("LlamaForCausalLM", "Gemma3ForCausalLM"), "llama")
    return padded(FAMILIES[families.get(type(model).__name__, "bert")][1](3))


@torch.no_grad()
def output(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """What the model computes; without gradients, since torch has other attention kernels for masks that need one."""
    out = model(**batch)
    return out if isinstance(out, Tensor) else out.logits


BUILDERS: list[Callable[[], Any]] = [build for build, _ in FAMILIES.values()] + [Convolutions, Attention]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("settings", [{}, {"delta_scale": "rms", "init_mask": "magnitude", "density": 1.0}], ids=str)
def test_at_init_the_model_computes_exactly_what_the_base_computes(
    build: Callable[[], Any], dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    base = build().to(dtype).requires_grad_(False)  # torch folds products with weights that require gradients
    with torch.no_grad():
        for parameter in base.parameters():  # in float64 no float32 would do
            parameter.mul_(1 + torch.rand(parameter.shape, dtype=torch.float64) / 8)
    batch = batch_for(base, dtype)
    expected = output(base, batch)
    assert torch.equal(output(tuned(base, **settings), batch), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("build", BUILDERS)
def test_training_merging_and_unloading_compute_the_same_bits(build: Callable[[], Any], dtype: torch.dtype) -> None:
    base = build().to(dtype)
    batch = batch_for(base, dtype)
    model = tuned(base, density=0.3, init_weights=False)
    unmerged = output(model, batch)
    in_training = {
        (layer, name): layer.effective(name).detach().clone()
        for layer in model.modules()
        if isinstance(layer, FishDipLayer)
        for name in layer.tuned
    }
    model.merge_adapter()
    assert torch.equal(output(model, batch), unmerged)
    for (layer, name), effective in in_training.items():
        assert torch.equal(bits(layer.base_parameter(name)), bits(effective))
    model.unmerge_adapter()
    assert torch.equal(output(model, batch), unmerged)
    assert torch.equal(output(model.merge_and_unload(), batch), unmerged)


@pytest.mark.parametrize("build", BUILDERS)
def test_with_gradients_a_model_computes_what_it_does_without(build: Callable[[], Any]) -> None:
    base = build()
    batch = batch_for(base)
    model = tuned(base, density=0.3, init_weights=False)
    out = model(**batch)
    torch.testing.assert_close(
        out if isinstance(out, Tensor) else out.logits, output(model, batch), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("build", "dtype", "delta_scale"),
    [
        *((build, dtype, "rms") for build in (tied_t5, bert_classifier) for dtype in DTYPES),
        (gpt2, torch.float32, "none"),
        (gpt2, torch.bfloat16, "none"),
    ],
)
def test_a_loaded_adapter_computes_the_same_bits(
    build: Callable[[], Any], dtype: torch.dtype, delta_scale: str, tmp_path: Path
) -> None:
    base = build().to(dtype)
    batch = batch_for(base)
    model = tuned(base, density=0.3, init_weights=False, delta_scale=delta_scale)
    expected = output(model, batch)
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(build().to(dtype), str(tmp_path))
    assert torch.equal(output(loaded, batch), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_effective_weight_is_the_base_in_float32_plus_delta_rounded_once(dtype: torch.dtype) -> None:
    base = nn.Sequential(nn.Linear(8, 8)).to(dtype)
    with torch.no_grad():
        base[0].weight.mul_(1 + torch.rand(8, 8, dtype=torch.float64) / 8)
    weight = base[0].weight.detach().clone()
    model = tuned(base, density=0.7, init_weights=False)
    positions, values = model.base_model.delta()["0.weight"]
    expected = weight.flatten().clone()
    exact = weight.flatten()[positions].double() + values.double()
    if dtype == torch.float64:
        expected[positions] = exact
    else:
        expected[positions] = (weight.flatten()[positions].float() + values).to(dtype)
    model.merge_adapter()
    assert torch.equal(bits(base[0].weight), bits(expected.view(8, 8)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_several_adapters_add_up_to_the_same_bits_whether_merged_or_not(dtype: torch.dtype) -> None:
    base = gpt2().to(dtype)
    batch = batch_for(base)
    model = tuned(base, density=0.3, init_weights=False)
    for seed, name in enumerate(["second", "third"], start=1):
        model.add_adapter(name, type(model.peft_config["default"])(density=0.3, init_weights=False, seed=seed))
    for names in (["default", "second", "third"], ["third", "default"]):
        model.base_model.set_adapter(names)
        expected = output(model, batch)
        model.merge_adapter()
        assert torch.equal(output(model, batch), expected)
        model.unmerge_adapter()
    for name in ("third", "default"):
        model.base_model.merge_adapter([name])
    assert torch.equal(output(model, batch), expected)


def test_under_autocast_training_and_merging_compute_the_same_bits() -> None:
    base = bert_classifier()
    batch = batch_for(base)
    model = tuned(base, density=0.3, init_weights=False)
    with torch.autocast("cpu", torch.bfloat16):
        expected = output(model, batch)
        model.merge_adapter()
        assert torch.equal(output(model, batch), expected)


def test_inference_mode_computes_the_same_bits_and_leaves_training_possible() -> None:
    base = tied_t5()
    batch = batch_for(base)
    model = tuned(base)
    randomise(model)
    expected = output(model, batch)
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, expected)
    assert torch.equal(output(model, batch), expected)
    with ignoring_unscored_mask():
        model(**batch).loss.backward()
    assert flat_of(model).grad.abs().sum() > 0
