"""The model to be pretrained: transformers' T5 with tied embeddings."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from ..vocabulary import EOS, PAD
from .batches import Part
from .corruption import IGNORED
from .settings import RunSettings

FINE_TUNING_DROPOUT = 0.1


def new_model(settings: RunSettings, vocab_size: int) -> T5ForConditionalGeneration:
    """A randomly initialised model, the same for the same settings; float32, on the CPU.

    The embedding has a multiple of 64 rows: matrix products are faster so; the rows after `vocab_size` mean nothing.
    """
    config = T5Config(  # type: ignore[call-arg]
        vocab_size=-(-vocab_size // 64) * 64,
        d_model=settings.d_model,
        d_kv=settings.d_kv,
        d_ff=settings.d_ff,
        num_layers=settings.num_layers,
        num_decoder_layers=settings.num_layers,
        num_heads=settings.num_heads,
        dropout_rate=settings.dropout,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return T5ForConditionalGeneration(config)


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager[Any]:
    """Matrix products in bfloat16, if asked for."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if enabled else nullcontext()


def token_losses(model: Any, part: Part, bf16: bool) -> Tensor:
    """-log p of each label in nats, 0 where there is none; float32, shape (rows, target length).

    Args:
        model: T5, compiled or not, on the device of the part.
    """
    with autocast(part.input_ids.device, bf16):
        # the decoder reads what it has written: 0 first, and anything where no label is
        shifted = F.pad(part.labels, (1, -1), value=PAD).clamp(min=PAD)
        logits = model(
            input_ids=part.input_ids, attention_mask=(part.input_ids != PAD).long(), decoder_input_ids=shifted
        ).logits
    return F.cross_entropy(
        logits.float().flatten(0, 1), part.labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(part.labels)
