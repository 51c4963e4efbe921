"""T5 models of known sizes, with random weights, and what they cost in theory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, T5Config

from ..settings import SettingsError, one_line

if TYPE_CHECKING:
    from .settings import Settings

VOCABULARY = 32128


def shape(d_model: int, d_ff: int, layers: int, heads: int, vocabulary: int = VOCABULARY, d_kv: int = 64) -> Any:
    return {
        "d_model": d_model,
        "d_ff": d_ff,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "vocab_size": vocabulary,
        "d_kv": d_kv,
    }


GEOMETRIES: dict[str, dict[str, Any]] = {
    "tiny": shape(32, 64, 1, 1, 100),
    "nano": shape(256, 1024, 4, 4, 8192),
    "small": shape(512, 2048, 6, 8),
    "base": shape(768, 3072, 12, 12),
    "large": shape(1024, 4096, 24, 16),
    "3b": shape(1024, 16384, 24, 32, d_kv=128),
}
"""Those of T5 from small on; tiny is for trying things out."""


def make_base(settings: Settings) -> nn.Module:
    """The model that all contestants train, on its device.

    Raises:
        SettingsError: the folder of a pretrained model cannot be read.
    """
    torch.manual_seed(settings.seed)
    if settings.model is not None:
        try:
            model = AutoModelForSeq2SeqLM.from_pretrained(
                settings.model, dtype=settings.torch_dtype, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise SettingsError(f"model={settings.model!r} cannot be read: {one_line(error)}") from error
    else:
        model = AutoModelForSeq2SeqLM.from_config(
            t5_config(settings.geometry, settings.dropout), dtype=settings.torch_dtype
        )
    return model.to(settings.torch_device)


def t5_config(geometry: str, dropout: float = 0.1) -> T5Config:
    special: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return T5Config(**GEOMETRIES[geometry], **special, dropout_rate=dropout)


def count_parameters(geometry: str) -> int:
    """Of a geometry, without making its weights; tied ones count once."""
    with torch.device("meta"):
        return num_parameters(AutoModelForSeq2SeqLM.from_config(t5_config(geometry)))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, batch: int, source: int, target: int) -> int:
    """Multiply-adds of the matrix products with weights in one forward pass; the decoder reads keys from the source."""
    total = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            reads_source = name.startswith("encoder.") or name.endswith(("EncDecAttention.k", "EncDecAttention.v"))
            total += module.weight.numel() * batch * (source if reads_source else target)
    return total
