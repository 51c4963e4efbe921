"""What a run measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from .example_counts import Counts


@dataclass
class Trace:
    """What training went through, over all fits of a run."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    """A row every `log_every` steps, in the names of PEFT's method_comparison."""
    updates: list[dict[str, Any]] = field(default_factory=list)
    """Figures of each mask update."""
    begins: list[int] = field(default_factory=list)
    """Steps done before each fit: a run has one, or meta-training and then one per episode."""
    step: int = 0
    """Steps that are done."""
    samples: int = 0
    """Examples that were trained on, each time counted."""
    tokens: int = 0
    """Tokens of these, of source and target, without padding."""
    train_time: float = 0.0
    """Seconds, mask updates included."""
    update_time: float = 0.0

    def add_row(self, losses: list[float], elapsed: float) -> None:
        """A row of the metrics: the losses since the last one, the rest since the run began.

        Args:
            elapsed: seconds of training so far, all fits together.
        """
        self.metrics.append(
            {
                "step": self.step,
                "train loss": sum(losses) / len(losses),
                "train samples": self.samples,
                "train total tokens": self.tokens,
                "tokens / sec": self.tokens / elapsed,
                "elapsed time": elapsed,
            }
        )


@dataclass
class Forgetting:
    """What a run records of the loss on plain text."""

    origin: str
    """Name of the file with the texts."""
    digest: str
    """Tells the texts from others."""
    num_texts: int = 0
    num_tokens: int = 0
    """Tokens that are predicted."""
    num_cut: int = 0
    """Texts of which the end was not read."""
    num_short: int = 0
    """Texts that were left out, since they have less than two tokens."""
    loss_before: float | None = None
    """Of the base model."""
    losses_after: list[float] = field(default_factory=list)
    """After training; of episodes, after each."""
    reason: str = ""
    """Why it was not measured; empty if it was."""

    @property
    def value(self) -> float | None:
        """The mean loss after training minus the one before."""
        if self.loss_before is None or not self.losses_after:
            return None
        return mean(self.losses_after) - self.loss_before


@dataclass
class Outcome:
    """What a run came to."""

    scores: dict[str, float] = field(default_factory=dict)
    """Metrics of the task on the test examples, and `loss`, -log p in nats per target token, word or text."""
    counts: dict[str, list[Counts]] = field(default_factory=dict)
    """By metric, what each test example adds to it; one entry, or one for each episode."""
    predictions: list[dict[str, str]] = field(default_factory=list)
    """A few test examples with what was predicted, see `predictions`; of episodes, of the first one."""
    calibration_error: float | None = None
    """Of the scores of all answers, see `peft_fishdip.tasks.calibration_of`; None where answers have none."""
    forgetting: Forgetting | None = None
    """None if it was not asked for."""
    task_type: str | None = None
    """What the model does, by PEFT's name."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know of how the method was adapted to the model."""
    trace: Trace = field(default_factory=Trace)
    num_base_params: int = 0
    """Entries of the base model, before any adapter."""
    num_trainable_params: int = 0
    num_total_params: int = 0
    eval_time: float = 0.0
    """Seconds."""
    file_size: int = 0
    """Bytes of the saved adapter, or of the whole model; of episodes, what the first one learned."""
    peak_memory: int = 0
    """Bytes, see MemoryMeter."""
    fit_memory: int = 0
    """The same up to the first evaluation."""
    in_context_shown: float | None = None
    """Examples that stood before a source, on average."""
    adapter_config: dict[str, Any] | None = None
    self_training: list[dict[str, Any]] | None = None
    """The record of each round; None without self-training."""

    def add_counts(self, counts: dict[str, Counts]) -> None:
        """Those of the test examples, or of one more episode."""
        for metric, own in counts.items():
            self.counts.setdefault(metric, []).append(own)
