"""Losses of single examples, for all kinds of models that the tasks work with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from ..families import CAUSAL, SEQUENCES, task_type

IGNORED = -100


def predicted(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The logits of what the model predicts in a batch, and the targets.

    Returns:
        Logits, float32 (examples, positions, classes), and labels, int64 (examples, positions), -100 where there is no
        target. A text of a sequence classifier has one position.
    """
    kind, labels = task_type(model), batch["labels"]
    logits = model(**batch).logits.float()
    if kind == SEQUENCES:
        return logits[:, None], labels.view(-1, 1)
    logits = logits[:, logits.shape[1] - labels.shape[1] :]  # virtual tokens of PEFT stand before the others
    return (logits[:, :-1], labels[:, 1:]) if kind == CAUSAL else (logits, labels)


def example_losses(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """-log p of the targets of each example, the mean over them, in nats: float32 (examples,); 0 without targets."""
    logits, labels = predicted(model, batch)
    tokens = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return of_examples(tokens.view(labels.shape), labels)


def distillation_losses(logits: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """KL(teacher || student) at the targets of each example, the mean over them, in nats: float32 (examples,).

    Args:
        logits, teacher: of the student and of the teacher, (examples, positions, classes).
        labels: (examples, positions), -100 where there is no target.
    """
    logs, wanted = logits.log_softmax(-1), teacher.log_softmax(-1)
    tokens = kl_div(logs, wanted, log_target=True, reduction="none").sum(-1)
    return of_examples(tokens.masked_fill(labels == IGNORED, 0.0), labels)


def of_examples(tokens: Tensor, labels: Tensor) -> Tensor:
    """The mean over the targets of each example."""
    return tokens.sum(1) / labels.ne(IGNORED).sum(1).clamp(min=1)
