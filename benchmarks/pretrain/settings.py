"""What a pretraining run is made of: the numbers that have to stay the same when it is resumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..settings import SettingsError

SENTINELS = 100
LENGTH = ("max_tokens", "max_minutes")
"""Settings that say how long a run is."""
VOCAB_SIZE = 8192
MAX_BYTES = 25_000_000
"""Of an exported model, together with its tokenizer."""


def setting(default: Any, text: str) -> Any:
    """A field with what it means, which the command line shows, too."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class RunSettings:
    """The numbers of one run. Same numbers, same shards, same device and versions: same losses."""

    d_model: int = setting(256, "size of a token's vector")
    d_kv: int = setting(64, "size of one attention head")
    d_ff: int = setting(1024, "size of the inner layer of a feed-forward block")
    num_layers: int = setting(4, "of the encoder, and as many of the decoder")
    num_heads: int = setting(4, "of each attention")
    batch_size: int = setting(32, "rows of --length source tokens in a step; a share of them is given to denoising")
    length: int = setting(128, "source tokens of a span corruption row, sentinels and end included")
    noise_density: float = setting(0.15, "share of the tokens that span corruption takes out")
    mean_span: float = setting(3.0, "mean length of a span that is taken out, in tokens")
    denoising_share: float = setting(
        0.3, "share of a step's places for whole sentences, corrupted, whose target is the clean sentence"
    )
    denoising_length: int = setting(
        64, "longest such sentence, in tokens with its end; longer ones serve span corruption only"
    )
    copy_share: float = setting(0.3, "share of the denoising rows that are not corrupted")
    scrambled_share: float = setting(0.5, "share of the uncorrupted rows made of pieces drawn at random")
    corruption: float = setting(0.3, "a denoising row loses a share of its tokens drawn uniformly from 0 to this")
    learning_rate: float = setting(2e-2, "peak rate, relative to each tensor's RMS")
    warmup_tokens: int = setting(1_000_000, "tokens in which the rate rises to its peak")
    decay_share: float = setting(
        0.2, "share of the run, at its end, in which the rate falls; before that, the run can be made longer or shorter"
    )
    final_share: float = setting(0.01, "share of the peak rate at the end")
    rms_interval: int = setting(100, "steps after which the RMS of each tensor is measured anew")
    beta1: float = setting(0.9, "of AdamW")
    beta2: float = setting(0.99, "of AdamW")
    weight_decay: float = setting(0.0, "of AdamW, relative to the rate")
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm over all parameters")
    dropout: float = setting(0.0, "while pretraining")
    bf16: bool = setting(
        False,
        "autocast to bfloat16, for GPUs and for CPUs with AMX or AVX512-BF16, very slow on others; weights and the "
        "optimizer's state stay float32",
    )
    seed: int = setting(0, "of weights, order and corruption")
    max_tokens: int = setting(60_000_000, "clean text tokens after which the run is over")
    max_minutes: float = setting(
        0.0, "minutes after which the run is over, if earlier; 0: no limit. The rate follows the clock then"
    )
    log_every: int = setting(50, "steps between two rows of the log")
    evaluate_every: int = setting(1000, "steps between two looks at held-out text")
    checkpoint_every: int = setting(500, "steps between two checkpoints")

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingsError(f"{entry.name}={value!r} must be finite")
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
        known = {entry.name for entry in fields(cls)}
        if set(values) != known:
            odd = sorted(set(values) ^ known)
            raise SettingsError(f"{origin} has not the settings of a run: {', '.join(odd)}")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
