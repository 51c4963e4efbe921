"""A tiny Llama with a tokenizer of few words, and what holds of an adapter after six steps in any tool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from peft_fishdip import FishDipConfig, MaskUpdate, tuner_of

WORDS = [f"w{i}" for i in range(28)]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
STEPS, INTERVAL = 6, 2

QUIET = pytest.mark.filterwarnings("ignore", "error:.*(Fish-?[Dd]ip|adapter|the mask)")
"""For `pytestmark`: libraries may warn of what they like, but not of the adapter, and this package of nothing."""


def config(**settings: Any) -> FishDipConfig:
    """What a user changes: the config. Only the interval and the density are those of tiny models."""
    return FishDipConfig(**{"update_interval": INTERVAL, "density": 0.05, **settings})


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


def llama(**overrides: Any) -> LlamaForCausalLM:
    torch.manual_seed(4)
    settings = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.2,
        **overrides,
    }
    return LlamaForCausalLM(LlamaConfig(**settings)).eval()


def sentence(index: int) -> str:
    """A sentence of 3 to 8 words, another one for each index."""
    return " ".join(WORDS[(index * 5 + i * i) % len(WORDS)] for i in range(3 + index % 6))


def padded(texts: list[str]) -> dict[str, Tensor]:
    """A batch of a causal language model."""
    batch = dict(tokenizer()(texts, padding=True, return_tensors="pt", return_token_type_ids=False))
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


class Step(NamedTuple):
    """An adapter after an optimizer step."""

    update: MaskUpdate | None
    mask: dict[str, Tensor]
    trained: int
    """Number of entries whose delta is not 0."""


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Step]]:
    """Records the adapter of a model after each step of any optimizer."""
    steps: list[Step] = []

    def record(*_: Any) -> None:
        tuner = tuner_of(model)
        trained = sum(int((values != 0).sum()) for _, values in tuner.delta().values())
        steps.append(Step(tuner.last_update(), tuner.mask(), trained))

    handle = register_optimizer_step_post_hook(record)
    try:
        yield steps
    finally:
        handle.remove()


def assert_trained(steps: list[Step], *, by_losses: bool, first: int = 0) -> None:
    """The mask was chosen in step `first`, until which nothing was trained, and then at every interval.

    `by_losses` says whether examples chose it, or the gradients of a step.
    """
    assert len(steps) == STEPS
    assert not any(step.trained for step in steps[: first + 1])
    assert not any(step.update for step in steps[:first])
    updates = [step.update for step in steps[first:]]
    assert [None if update is None else update.step for update in updates] == [
        max(first, number - number % INTERVAL) for number in range(first, STEPS)
    ]
    assert [bool(update.example_ids) for update in updates] == [by_losses] * len(updates)
    for number, (before, after) in enumerate(pairwise(steps[first:]), first + 1):
        same = all(torch.equal(before.mask[name], after.mask[name]) for name in before.mask)
        assert same == (number % INTERVAL != 0), number
        assert after.trained >= before.trained
    assert steps[-1].trained > 0


def assert_loads(model: PeftModel, base: nn.Module, folder: Path) -> None:
    """The saved adapter gives a fresh base the same outputs, which are not those of the base."""
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(base, folder).eval()
    batch = padded([sentence(i) for i in range(4)])
    with torch.no_grad():
        trained = model.eval()(**batch).logits
        assert torch.equal(loaded(**batch).logits, trained)
        with loaded.disable_adapter():
            assert not torch.equal(loaded(**batch).logits, trained)
