"""Models with an adapter that generate, the scores of their tokens, and actions between two tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList

from ..support.models import base_bits, base_parameters, bits, randomise, tied_t5, tuned

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
