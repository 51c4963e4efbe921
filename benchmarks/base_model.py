"""A small T5 to fine-tune where no pretrained one is given: it has learned to copy the sentences of the domain."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import T5Config, T5ForConditionalGeneration
from transformers.optimization import Adafactor

from . import toy
from .jobs import lock
from .vocabulary import EOS, PAD, train_tokenizer

NANO = Path(__file__).parent / "nano"
"""The model that `benchmarks.pretrain` made."""


def default_model(output: Path) -> str:
    """The model to compare on where none is named."""
    if NANO.exists():
        return str(NANO)
    sentences = [" ".join(example.tokens) for example in toy.sentences(4000, seed=-3)]
    folder = output / "base"
    return str(build_base_model(sentences, folder, vocab_size=500, d_model=128, num_layers=2, steps=500, seed=0))


def build_base_model(
    sentences: Sequence[str], folder: Path, *, vocab_size: int, d_model: int, num_layers: int, steps: int, seed: int
) -> Path:
    """Make a base model: a T5 that restores sentences of which 15 % of the tokens were dropped.

    It is made once, whole or not at all, whatever processes ask for it. A model that cannot copy learns no augmented
    format from a few dozen sentences.

    Args:
        sentences: unlabelled text of the domain.
        folder: where model and tokenizer are kept; nothing is made if it has a model.
        vocab_size, d_model, num_layers: of the model; d_ff is 2 * d_model, heads have 32 dimensions.
        steps: of 32 sentences each.
        seed: of initialisation and order.
    """
    with lock(folder.parent, folder.name):
        if not (folder / "config.json").exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            model, tokenizer = train_base_model(sentences, vocab_size, d_model, num_layers, steps, seed)
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.replace(folder)
    return folder


def train_base_model(
    sentences: Sequence[str], vocab_size: int, d_model: int, num_layers: int, steps: int, seed: int
) -> tuple[Any, Any]:
    """Model and tokenizer; arguments as of build_base_model."""
    tokenizer = train_tokenizer(sentences, vocab_size)
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=d_model,
        d_kv=32,
        d_ff=2 * d_model,
        num_layers=num_layers,
        num_heads=d_model // 32,
        dropout_rate=0.0,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    config.decoder_start_token_id = PAD
    model = T5ForConditionalGeneration(config)
    encoded: list[list[int]] = tokenizer(list(sentences), truncation=True, max_length=128)["input_ids"]
    rng = random.Random(seed)
    peak = 0.05
    optimizer = Adafactor(model.parameters(), lr=peak, scale_parameter=True, relative_step=False, warmup_init=False)
    model.train()
    with tqdm(total=steps, desc="Base model") as bar:
        for step in range(steps):
            loss = model(**denoising_batch(rng.choices(encoded, k=32), rng)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1.0, (step + 1) / 100, (steps - step) / (0.3 * steps))
            optimizer.step()
            optimizer.zero_grad()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    model.config.dropout_rate = 0.1
    return model, tokenizer


def denoising_batch(rows: Sequence[list[int]], rng: random.Random) -> dict[str, Tensor]:
    """Sentences as targets, and as sources with 15 % of their tokens dropped."""
    sources = [[token for token in row if token == EOS or rng.random() > 0.15] for row in rows]
    return padded({"input_ids": sources, "labels": list(rows)})


def padded(columns: dict[str, list[Any]]) -> dict[str, Tensor]:
    """A batch of token lists: `input_ids` padded with 0 and masked, `labels` padded with -100."""
    batch = {
        key: torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=-100 if key == "labels" else PAD
        )
        for key, rows in columns.items()
    }
    batch["attention_mask"] = (batch["input_ids"] != PAD).long()
    return batch
