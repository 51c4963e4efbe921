"""-log p(y|x) of each training example, for the model families of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = Mapping[str, Any]  # the keyword arguments of a forward call, as a data collator returns them
LossFn = Callable[[nn.Module, Batch], Tensor]  # from model and batch to its examples' differentiable losses, (batch,)
IGNORED = -100  # label of a position that is no target


class Numbered(NamedTuple):
    """A batch and the numbers of its examples, one per row."""

    ids: list[int]
    batch: Batch


CLASSIFIERS = (
    "ForSequenceClassification",
    "ForImageClassification",
    "ForVideoClassification",
    "ForAudioClassification",
)
"""Kinds of models in transformers that give one class, several classes or numbers to each example."""


def default_loss_fn(model: nn.Module, example_loss: str, checked: bool = True) -> LossFn:
    """The loss function for a transformers model (without PEFT's wrapper): the "sum" or "mean" over target tokens.

    Supports encoder-decoder models, causal LMs, masked LMs, token and sequence classifiers; for models of another kind,
    a ValueError asks for a `loss_fn`. Without `checked`, the losses of encoder-decoder models and LMs come without
    waiting for the device; see [`TokenLoss`].
    """
    kind = getattr(model, "loss_type", None) or ""
    config = getattr(model, "config", None)
    words, classes = getattr(config, "vocab_size", None), getattr(config, "num_labels", None)
    if kind in CLASSIFIERS:
        return partial(classification_loss, checked=checked, config=config)
    if kind == "ForTokenClassification":
        return TokenLoss(example_loss, shifted=False, checked=checked, aligned=True, classes=classes)
    if getattr(config, "is_encoder_decoder", False) and kind != "ForQuestionAnswering":
        return TokenLoss(example_loss, shifted=False, checked=checked, classes=words)
    if kind in ("ForCausalLM", "ForConditionalGeneration") or type(model).__name__.endswith("LMHeadModel"):
        return TokenLoss(example_loss, shifted=True, checked=checked, classes=words)
    if kind == "ForMaskedLM":
        return TokenLoss(example_loss, shifted=False, checked=False, aligned=True)
    raise ValueError(
        f"the loss of single examples is not known for {type(model).__name__}; pass loss_fn, a function of the model "
        "and a batch that returns the losses of its examples, shape (batch,)."
    )


class TokenLoss:
    """Cross-entropy of each example's target tokens, the "sum" or the "mean" over them: a LossFn.

    `shifted` says that logits predict the next label, as in causal LMs; the first loss that the model itself returns
    tells whether that is so, see `settle`. Unless `checked`, an example without a target has a loss of -inf instead of
    raising an error: the result is not waited for, and masked LMs may draw no target. `aligned` says that there is a
    label for each token of the input; `classes` is the number of classes, if known.
    """

    def __init__(
        self,
        example_loss: str,
        shifted: bool,
        checked: bool = True,
        aligned: bool = False,
        classes: int | None = None,
    ) -> None:
        self.example_loss = example_loss
        self.shifted = shifted
        self.checked = checked
        self.aligned = aligned
        self.classes = classes
        self.settled = aligned

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        labels = require_labels(batch)
        refuse_shape(batch, labels, self.aligned)
        if self.checked and self.classes:
            refuse_unknown_classes(labels, self.classes)
        output = model(**batch)
        self.settle(output, batch)
        return self.of_rows(self.of_tokens(output.logits, labels), labels)

    @torch.no_grad()
    def settle(self, output: Any, batch: Batch) -> None:
        """Find once, by the mean loss that the model returns, whether it shifts the labels.

        Some causal LMs of transformers do not, such as BartForCausalLM and XLNetLMHeadModel. The rule whose mean comes
        closest is taken: models may add something to the cross-entropy, such as the balance of their experts.
        """
        own = getattr(output, "loss", None)
        if self.settled or not isinstance(own, Tensor) or own.numel() != 1 or not math.isfinite(float(own)):
            return
        self.settled = True
        first = self.distance(output, batch)
        if first > 1e-3 * abs(float(own)):
            self.shifted = not self.shifted
            if self.distance(output, batch) >= first:
                self.shifted = not self.shifted

    def distance(self, output: Any, batch: Batch) -> float:
        """How far the mean of these losses is from the one that the model returns."""
        labels = batch["labels"]
        total = float(self.of_tokens(output.logits.detach(), labels).sum())
        targets = int((labels[:, 1:] if self.shifted else labels).ne(IGNORED).sum())
        counts = [max(targets, 1), batch.get("num_items_in_batch")]  # the latter is a Trainer's, of several batches
        return min(abs(total / float(count) - float(output.loss)) for count in counts if count is not None)

    def of_tokens(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each label that can be predicted: (batch, length), or (batch, length - 1) if shifted."""
        predicted = F.pad(labels[:, 1:], (0, 1), value=IGNORED) if self.shifted else labels  # no copy of the logits
        logits = logits[:, logits.shape[1] - labels.shape[1] :]  # some architectures prepend a prompt to the logits
        flat = logits.flatten(0, 1).float()  # with the vocabulary as the last axis the loss takes half the time
        losses = F.cross_entropy(flat, predicted.flatten(), ignore_index=IGNORED, reduction="none").view(labels.shape)
        return losses[:, :-1] if self.shifted else losses

    def of_rows(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """From the losses of tokens, and the labels, (batch, length), to the losses of examples, (batch,)."""
        targets = (labels[:, 1:] if self.shifted else labels).ne(IGNORED).sum(1)
        if self.checked:
            refuse_empty(targets)
        total = tokens.sum(1)
        total = total / targets.clamp(min=1) if self.example_loss == "mean" else total
        return total if self.checked else total.masked_fill(targets == 0, -math.inf)


def classification_loss(model: nn.Module, batch: Batch, checked: bool = True, config: Any = None) -> Tensor:
    """The loss of each example for sequence classification, shape (batch,): what `problem_type` of the config says.

    Squared error for regression, binary cross-entropy where several classes can hold at once, both summed over the
    labels of an example; else cross-entropy. Without a `problem_type`, as in transformers, a model with one label does
    regression, and floating point labels are those of several classes.
    """
    labels = require_labels(batch)
    classes = getattr(config, "num_labels", None)
    problem = problem_of(labels, config)
    if classes:
        refuse_classification(labels, batch_size(batch), classes, problem, checked)
    logits = model(**batch).logits.float()
    if problem != SINGLE:
        wanted = labels.view(logits.shape).float()
        of_labels = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
        return of_labels(logits, wanted, reduction="none").flatten(1).sum(1)
    is_target = labels.view(-1) != IGNORED
    if checked:
        refuse_empty(is_target)
    losses = F.cross_entropy(logits, labels.view(-1), reduction="none")
    return losses if checked else losses.masked_fill(~is_target, -math.inf)


SINGLE = "single_label_classification"


def problem_of(labels: Tensor, config: Any) -> str:
    """What a classifier does, in the words of transformers' `problem_type`."""
    given = getattr(config, "problem_type", None)
    if given is not None:
        return given
    if getattr(config, "num_labels", None) == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else SINGLE


def require_labels(batch: Batch) -> Tensor:
    """The labels of a batch; raises a ValueError if they are missing or not a tensor."""
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        found = f"'labels' of a batch is a {type(labels).__name__}, not a tensor"
        if "labels" not in batch:
            found = f"a batch has no 'labels', only {', '.join(sorted(batch)) or 'nothing'}"
        raise ValueError(f"{found}; the data_collator must make one, or pass a loss_fn that needs none.")
    return labels


def bfloat16_autocast(device: str) -> torch.dtype | None:
    """bfloat16 if torch.autocast is on in it for a kind of device. float16 is none: it needs a gradient scaler."""
    on = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    return torch.bfloat16 if on else None


class ExampleError(ValueError):
    """What is wrong with the labels of the example in row `row` of a batch."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def refuse_shape(batch: Batch, labels: Tensor, aligned: bool) -> None:
    """Raise ValueError for labels that are not one whole number for each token."""
    ids = batch.get("input_ids")
    misplaced = aligned and isinstance(ids, Tensor) and ids.shape != labels.shape
    if labels.dim() != 2 or labels.is_floating_point() or misplaced:
        expected = tuple(ids.shape) if aligned and isinstance(ids, Tensor) else "(batch, target tokens)"
        raise ValueError(
            f"'labels' of a batch have the shape {tuple(labels.shape)} and the dtype {labels.dtype}; this model needs "
            f"one whole number for each token, shape {expected}, and {IGNORED} where there is no target."
        )


def refuse_classification(labels: Tensor, rows: int, classes: int, problem: str, checked: bool) -> None:
    """Raise ValueError for labels of another shape, and with `checked` for those that are no class number."""
    each = 1 if problem == SINGLE else classes
    if labels.shape != (rows, each) and (each > 1 or labels.shape != (rows,)):
        several = f"floats of shape ({rows}, {classes})"
        wanted = f"one label each, shape ({rows},), or, where several of the {classes} classes can hold at once, "
        raise ValueError(
            f"'labels' of a batch have the shape {tuple(labels.shape)}; {rows} examples need "
            f"{'' if problem == 'regression' and classes > 1 else wanted}{several}."
        )
    if checked and problem == SINGLE:
        refuse_unknown_classes(labels.view(-1, 1), classes)


def refuse_unknown_classes(labels: Tensor, num_classes: int) -> None:
    """Raise if a label, (batch, labels), is no class number; on a GPU such a label ends the process."""
    unknown = (labels != IGNORED) & ((labels < 0) | (labels >= num_classes))
    if bool(unknown.any()):
        row, place = unknown.nonzero()[0].tolist()
        raise ExampleError(
            row,
            f"the label {int(labels[row, place])} is none of the model's {num_classes} classes, 0 to "
            f"{num_classes - 1}; correct it, or load the base with as many classes (num_labels) as the data has.",
        )


def refuse_empty(targets: Tensor) -> None:
    """Raise if one of the numbers of targets per example is 0: its mean loss would be 0 / 0, its gradient zero."""
    if not bool((targets > 0).all()):
        row = int((targets <= 0).nonzero()[0])
        raise ExampleError(
            row,
            f"all labels of the example in row {row} of a batch are {IGNORED}; leave such examples out, or raise the "
            "maximum target length that cut them off.",
        )


def example_losses(
    model: nn.Module, numbered: Numbered, loss_fn: LossFn, autocast: torch.dtype | None = None
) -> Tensor:
    """The losses of a batch's examples, shape (batch,), with a graph unless under `torch.no_grad`.

    `autocast` is the dtype of torch.autocast that they are computed under, if any.

    Raises a ValueError if `loss_fn` did not return one per example, an example has no target, or a loss is not finite.
    """
    try:
        device = next((value.device.type for value in numbered.batch.values() if isinstance(value, Tensor)), "cpu")
        with torch.autocast(device, autocast) if autocast else nullcontext():
            losses = loss_fn(model, numbered.batch)
    except ExampleError as error:
        raise ValueError(f"example {numbered.ids[error.row]}: {error}") from error
    size = len(numbered.ids)
    if not isinstance(losses, Tensor) or losses.shape != (size,):
        found = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        made = batch_size(numbered.batch)
        why = f" The data_collator makes {made} rows of {size} example(s): pass a loss_fn that joins their losses."
        why = "" if made == size else why
        raise ValueError(f"loss_fn must return a tensor of shape ({size},), one loss per example, not {found}.{why}")
    values = losses.detach().float()
    valid = values.isfinite() | ((values == -math.inf) & (not getattr(loss_fn, "checked", True)))
    if not bool(valid.all()):
        bad = int((~valid).nonzero()[0])
        raise ValueError(
            f"the loss of example {numbered.ids[bad]} is {float(values[bad])}; losses must be finite: check that "
            "example and the model's dtype (float16 overflows), or leave it out."
        )
    return losses


def batch_size(batch: Batch) -> int:
    """Number of rows of a batch: the length of its labels, else of its input_ids, else of its first tensor.

    Other arguments, such as position_ids, may have one row for all examples.
    """
    for value in (batch.get("labels"), batch.get("input_ids"), *batch.values()):
        if isinstance(value, Tensor) and value.dim():
            return value.shape[0]
    kinds = [f"{key} ({type(value).__name__})" for key, value in sorted(batch.items())]
    raise ValueError(f"a batch holds no tensor, only {', '.join(kinds) or 'nothing'}.")
