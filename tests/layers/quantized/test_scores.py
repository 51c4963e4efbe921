"""Masks over a quantised base are those of the dequantised model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from peft_fishdip.importance.losses import default_loss_fn

from ...support.models import flat_of, padded, randomise, seq2seq_examples, shapes_of, tuned
from .bases import EXAMPLES, KINDS, bitsandbytes, logits, quantised

WEIGHT_ONLY = ["nf4", "torchao"]
"""Whose products are those of the dequantised weights; LLM.int8() rounds the activations too."""


def dequantised(model: Any, folder: Path) -> Any:
    """A plain model with the values of a quantised one: those its own libraries give for the packed weights."""
    auto = AutoModelForSeq2SeqLM if folder.name == "t5" else AutoModelForCausalLM
    plain = auto.from_pretrained(folder, dtype=torch.float32).eval()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or type(module.weight) is nn.Parameter:
            continue
        weight = module.weight
        if type(weight).__name__ == "Params4bit":
            values = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        elif type(weight).__name__ == "Int8Params":
            values = weight.data.float() * weight.SCB.view(-1, 1) / 127
        else:
            values = weight.dequantize()
        plain.get_submodule(name).weight = nn.Parameter(values.detach().float().clone())
    return plain


@pytest.mark.parametrize("base", ["llama", "t5"])
@pytest.mark.parametrize("kind", WEIGHT_ONLY)
def test_masks_and_gradients_are_those_of_the_dequantised_model(saved: dict[str, Path], kind: str, base: str) -> None:
    examples = seq2seq_examples(8) if base == "t5" else EXAMPLES
    model = quantised(saved[base], kind)
    settings = {"density": 0.1, "num_samples": 4}
    plain = tuned(dequantised(model, saved[base]), **settings)
    model = tuned(model, **settings)
    for step in range(2):
        updates = [one.base_model.update_mask(examples) for one in (model, plain)]
        assert updates[0].example_ids == updates[1].example_ids
        masks = [
            {(name, position) for name, positions in one.base_model.mask().items() for position in positions.tolist()}
            for one in (model, plain)
        ]
        assert len(masks[0] & masks[1]) >= 0.995 * len(masks[0])
        scores = {name: torch.zeros(shape) for name, shape in shapes_of(plain).items()}
        for name, positions in plain.base_model.mask().items():
            scores[name].view(-1)[positions] = 1.0
        model.base_model.set_mask(scores)
        gradients = []
        for one in (model, plain):
            one.zero_grad()
            one(**padded(examples[:4])).loss.backward()
            gradients.append(flat_of(one).grad.clone())
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5 * float(gradients[1].abs().max()))
        assert gradients[0].abs().max() > 0
        if step == 0:
            for one in (model, plain):
                randomise(one, seed=5, scale=0.05)
            torch.testing.assert_close(logits(model, examples), logits(plain, examples), rtol=1e-4, atol=1e-4)


def test_eight_bit_masks_are_close_to_those_of_the_dequantised_model(saved: dict[str, Path]) -> None:
    """LLM.int8() rounds activations in its forward pass, so gradients differ by about a percent."""
    model = quantised(saved["llama"], "8bit")
    plain = tuned(dequantised(model, saved["llama"]), density=0.1, num_samples=4)
    model = tuned(model, density=0.1, num_samples=4)
    for one in (model, plain):
        one.base_model.update_mask(EXAMPLES)
    same = sum(
        torch.isin(positions, plain.base_model.mask()[name]).sum()
        for name, positions in model.base_model.mask().items()
    )
    assert same >= 0.9 * flat_of(model).numel()


@pytest.mark.parametrize("kind", KINDS)
def test_examples_that_share_a_pass_score_as_they_do_alone(saved: dict[str, Path], kind: str) -> None:
    alone, together = (tuned(quantised(saved["t5"], kind), density=0.1, num_samples=4) for _ in range(2))
    examples = seq2seq_examples(8)
    alone.base_model.update_mask(examples, batch_size=1)
    together.base_model.update_mask(examples, batch_size=4)
    same = sum(
        torch.isin(positions, alone.base_model.mask()[name]).sum()
        for name, positions in together.base_model.mask().items()
    )
    # what LLM.int8() rounds an example's activations to may depend on its neighbours' padding
    assert same >= (0.95 if kind == "8bit" else 0.995) * flat_of(alone).numel()


@pytest.mark.parametrize("importance", ["gallop", "lift", "magnitude"])
@pytest.mark.parametrize("kind", WEIGHT_ONLY)
def test_importance_functions_are_given_dequantised_effective_weights(
    saved: dict[str, Path], kind: str, importance: str
) -> None:
    model = quantised(saved["llama"], kind)
    settings = {"density": 0.1, "num_samples": 4, "importance": importance}
    plain = tuned(dequantised(model, saved["llama"]), **settings)
    model = tuned(model, **settings)
    masks = []
    for one in (model, plain):
        randomise(one, seed=5, scale=0.5)
        one.base_model.update_mask(EXAMPLES)
        masks.append({(name, at) for name, places in one.base_model.mask().items() for at in places.tolist()})
    assert len(masks[0] & masks[1]) >= 0.99 * len(masks[0])


def test_scoring_leaves_quantised_weights_as_they_are(saved: dict[str, Path]) -> None:
    """Same objects, no gradients."""
    model = tuned(quantised(saved["llama"], "nf4"), density=0.05, num_samples=2)
    weights = {name: (id(p), p.requires_grad) for name, p in model.named_parameters() if ".fishdip_" not in name}
    model.base_model.update_mask(EXAMPLES, loss_fn=default_loss_fn(model.base_model.model, "sum"))
    after = {name: (id(p), p.requires_grad) for name, p in model.named_parameters() if ".fishdip_" not in name}
    assert after == weights
    assert all(p.grad is None for p in model.parameters())
