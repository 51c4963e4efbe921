"""What a pretraining run is made of: the numbers that have to stay the same when it is resumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..settings import SettingsError

SENTINELS = 100
LENGTH = ("max_tokens", "max_minutes")
"""Settings that say how long a run is."""
VOCAB_SIZE = 8192
MAX_BYTES = 25_000_000
"""Of an exported model, together with its tokenizer."""


@dataclass(frozen=True)
class RunSettings:
    """The numbers of one run. Same numbers, same shards, same device and versions: same losses."""

    d_model: int = 256
    d_kv: int = 64
    """Size of one attention head."""
    d_ff: int = 1024
    num_layers: int = 4
    """Of the encoder, and as many of the decoder."""
    num_heads: int = 4
    batch_size: int = 32
    """Rows of `length` source tokens in a step; a share of them is given to denoising."""
    length: int = 128
    """Source tokens of a span corruption row, sentinels and end included."""
    noise_density: float = 0.15
    """Share of the tokens that span corruption takes out."""
    mean_span: float = 3.0
    """Mean length of a span that is taken out, in tokens."""
    denoising_share: float = 0.3
    """Share of the source tokens of a step that belongs to whole sentences whose target is the clean sentence."""
    denoising_length: int = 64
    """Longest sentence of the denoising part, in tokens with its end; longer ones serve span corruption only."""
    copy_share: float = 0.3
    """Share of the denoising rows that are not corrupted."""
    scrambled_share: float = 0.5
    """Share of the uncorrupted rows made of pieces drawn at random."""
    corruption: float = 0.3
    """A denoising row loses a share of its tokens drawn uniformly from 0 to this."""
    learning_rate: float = 2e-2
    """Peak rate, relative to each tensor's RMS."""
    warmup_tokens: int = 1_000_000
    """Tokens in which the rate rises to its peak."""
    decay_share: float = 0.2
    """Share of the run, at its end, in which the rate falls; before that, the run can be made longer or shorter."""
    final_share: float = 0.01
    """Share of the peak rate at the end."""
    rms_interval: int = 100
    """Steps after which the RMS of each tensor is measured anew."""
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    dropout: float = 0.0
    bf16: bool = False
    """Autocast to bfloat16; weights and optimizer state stay float32. Very slow on CPUs without bfloat16 products."""
    seed: int = 0
    max_tokens: int = 60_000_000
    """Clean text tokens after which the run is over."""
    max_minutes: float = 0.0
    """Minutes of training after which the run is over, if that is earlier; 0: no such limit."""
    log_every: int = 50
    evaluate_every: int = 1000
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingsError(f"{field.name}={value!r} must be finite")
        for name in (
            *("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "batch_size", "learning_rate", "rms_interval"),
            *("max_grad_norm", "max_tokens", "log_every", "evaluate_every", "checkpoint_every"),
        ):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name}={getattr(self, name)!r} must be greater than 0")
        for name in ("weight_decay", "max_minutes", "seed", "warmup_tokens"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name}={getattr(self, name)!r} must not be negative")
        for name in ("denoising_share", "copy_share", "scrambled_share", "decay_share", "final_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name}={getattr(self, name)!r} must be from 0 to 1")
        for name in ("beta1", "beta2", "corruption", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)!r} must be at least 0 and less than 1")
        if not 0 < self.noise_density < 1:
            raise SettingsError(f"noise_density={self.noise_density!r} must be between 0 and 1")
        if self.mean_span < 1:
            raise SettingsError(f"mean_span={self.mean_span!r} must be at least 1")
        if self.length < 8:
            raise SettingsError(f"length={self.length!r} must be at least 8")
        if self.denoising_length < 8 or self.denoising_length % 4:
            raise SettingsError(f"denoising_length={self.denoising_length!r} must be a multiple of 4, at least 8")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], origin: str) -> RunSettings:
        """Settings that were written as JSON; `origin` is where they stand.

        Raises:
            SettingsError: a name or a value is not one of a run.
        """
        known = {field.name: field.default for field in fields(cls)}
        if set(values) != set(known):
            odd = sorted(set(values) ^ set(known))
            raise SettingsError(f"{origin} has not the settings of a run: {', '.join(odd)}")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
