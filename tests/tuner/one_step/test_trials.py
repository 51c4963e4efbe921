"""What is tried once per model, and fails for want of memory, is tried again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ...support.models import lm_examples, tuned
from .subjects import small_gpt2


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes")],
    ids=["accelerator", "CPU"],
)
def test_an_out_of_memory_in_the_trial_of_shared_passes_is_not_remembered(error: RuntimeError) -> None:
    model, examples = tuned(small_gpt2(), density=0.05, num_samples=4), lm_examples(4)
    reference = tuned(small_gpt2(), density=0.05, num_samples=4)
    passes: list[int] = []
    failing = True

    def loss_fn(module: Any, batch: dict[str, Tensor]) -> Tensor:
        rows = batch["input_ids"].shape[0]
        if torch.is_grad_enabled():
            passes.append(rows)
            if rows > 1 and failing:
                raise error
        logits, labels = module(input_ids=batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
        return losses.sum(1)

    model.base_model.update_mask(examples, loss_fn=loss_fn)
    assert passes[0] > 1  # the trial
    assert passes[1:] == [1, 1, 1, 1]  # each alone: the update itself succeeds
    failing = False
    reference.base_model.update_mask(examples, loss_fn=loss_fn)
    for name, positions in reference.base_model.mask().items():
        assert torch.equal(model.base_model.mask()[name], positions)
    passes.clear()
    model.base_model.update_mask(examples, loss_fn=loss_fn)
    assert passes[0] > 1  # tried again
    assert sum(passes[-2:]) > 2  # and examples share passes
    passes.clear()
    model.base_model.update_mask(examples, loss_fn=loss_fn)
    assert 1 not in passes  # a success is remembered
