"""The examples that training has seen lately, with the losses that it computed for them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..distributed import world
from ..private import is_transformed, version_of
from .digests import keys
from .examples import TOKENS_TOGETHER, Candidate, ExampleSource, Priorities
from .losses import Batch, LossFn, Numbered, TokenLoss, batch_size, bfloat16_autocast
from .packing import example_of, segments
from .replay import RecordedOutputs, Replayed, rows_errors
from .rows import WHOLE, RowsError, are_texts, rows, same_losses, why_not_again

READ_AT = 256
"""Examples after which losses are fetched, and all examples but those with the highest ones are freed."""

TOGETHER = 8
"""Most examples in one backward pass."""

SPARE = 4
"""Examples that are kept for each one that can be chosen: some turn out to have a lower loss when they come again."""


class Call(NamedTuple):
    """A forward call of training: its arguments, their versions, and the losses on the device."""

    batch: Batch
    versions: list[int | None]
    losses: Tensor
    """float32 (rows,); or those of its tokens, (rows, length) or (rows, length - 1), where rows may be packed."""

    @property
    def changed(self) -> bool:
        """Whether a tensor has been changed in place since the call, so that the losses are of something else."""
        return self.versions != versions(self.batch)


class Heard(NamedTuple):
    """An example of training, the last loss that was heard of it, and its number in the order of training."""

    loss: float
    number: int
    batch: Batch


class RecentExamples(ExampleSource):
    """The training examples with the highest losses since the last mask update.

    On a large training set, most of the time of a mask update goes into the losses of all examples. This source uses
    the losses of the training steps instead: computed with dropout, each with the parameters of its step. Of an example
    that was trained on several times, the last loss counts. Examples that were not trained on since the last update
    cannot be chosen. Rows in which several examples are packed are split where `position_ids` begin anew.

        recent = model.base_model.recent_examples()
        for step, batch in enumerate(loader):
            if step and step % 100 == 0:
                model.base_model.update_mask(recent, optimizer=optimizer)
            ...

    To hear a loss costs no forward pass, and waits for the device once in 256 examples.

    Args:
        model: a transformers model, without PEFT's wrapper. A hook on it records each forward call in training mode,
            with gradients, that is given `labels` by name.
        loss_fn: the losses of a batch's examples; its model argument returns the recorded outputs.
        most: number of examples to choose from.
        by_loss: False keeps all examples, and leaves their priorities to the caller of `candidates`.
        skip_not_finite: leave out examples whose loss is not finite, with a warning. Otherwise they are chosen first,
            and the update refuses them by name.
        concerns: whether a call of the model shall be recorded; by default every one is.

    Attributes:
        listening: False stops recording for a while.
        trouble: why the examples of training cannot be computed one by one, once that has turned out; from then on
            nothing is recorded.
        autocast: bfloat16 if the last step that was recorded ran under it. float16 needs a gradient scaler, so that
            its examples are scored without autocast.
    """

    empty_message = (
        "no training step has recorded losses since the last update: call model.train(), and the model with "
        "labels=... by name; or update the mask by the examples themselves."
    )
    may_be_few = True
    heard = True

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        most: int,
        *,
        by_loss: bool = True,
        skip_not_finite: bool = False,
        concerns: Callable[[nn.Module], bool] | None = None,
    ) -> None:
        self.loss_fn = loss_fn
        self.most = most
        self.by_loss = by_loss
        self.skip_not_finite = skip_not_finite
        self.concerns = concerns
        self.listening = True
        self.trouble: str | None = None
        self._checked: set[frozenset[str]] = set()
        self._unchecked: dict[frozenset[str], Call] = {}
        self.forget()
        self._handle = model.register_forward_hook(self._after_forward, with_kwargs=True)

    def forget(self) -> None:
        """Discard all recorded examples; `update_mask` does this after it has used them."""
        self._calls: list[Call] = []
        self._unread = 0
        self._seen: set[bytes] = set()
        self._kept: dict[bytes, Heard] = {}
        self._next = 0

    def close(self) -> None:
        """Stop recording."""
        self._handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_calls": [], "_unread": 0, "_seen": set(), "_kept": {}, "_unchecked": {}}

    @property
    def seen(self) -> int:  # type: ignore[override]
        """Number of different examples recorded since the last update."""
        self._read()
        return len(self._seen)

    def __len__(self) -> int:
        """Number of examples that can be chosen."""
        self._read()
        return min(len(self._kept), self.most) if self.by_loss else len(self._kept)

    def candidates(self, priorities: Priorities | None = None) -> Iterator[Candidate]:
        """The kept examples, numbered in the order of training; `priorities` is only used unless `by_loss`.

        Raises:
            RowsError: the examples of training cannot be computed one by one.
        """
        self._read()
        if self.trouble is not None:
            raise RowsError(
                f"the examples of training steps cannot be computed one by one: {self.trouble}. Update the mask by the "
                "examples themselves, as update_mask(dataset, data_collator=...) or FishDipCallback() do."
            )
        rank, ranks = world()
        heard = sorted(self._kept.values(), key=lambda example: (-example.loss, example.number))
        if self.by_loss:
            ranked = [(example.loss, example) for example in heard[: self.most]]
        else:
            assert priorities is not None
            heard.sort(key=lambda example: example.number)
            numbers = Numbered([example.number for example in heard], {})
            ranked = list(zip(priorities(numbers), heard, strict=True))
        for priority, example in ranked:
            yield Candidate(priority, example.number * ranks + rank, example.batch)

    def groups(self, chosen: Sequence[Candidate]) -> Iterator[Numbered]:
        """Batches of the chosen examples for the backward passes, large ones first: those of one shape go together."""
        by_form: dict[tuple[Any, ...], list[Candidate]] = {}
        for candidate in chosen:
            assert candidate.batch is not None
            by_form.setdefault(form(candidate.batch), []).append(candidate)
        for alike in sorted(by_form.values(), key=len, reverse=True):
            size = max(1, min(TOGETHER, TOKENS_TOGETHER // max(1, length_of(alike[0]))))
            for start in range(0, len(alike), size):
                yield joined(alike[start : start + size])

    def check(self, model: nn.Module) -> None:
        """Compute the losses of two examples of a step, in their batch and alone; `trouble` says if they differ.

        This is done once for each set of arguments, unless all of them are texts, whose rows are sure to be examples.
        """
        while self._unchecked:
            names, call = self._unchecked.popitem()
            count = batch_size(call.batch)
            numbered = Numbered(list(range(count)), call.batch)
            try:
                whole = self._losses_again(model, call.batch)
                alone = [self._losses_again(model, rows(numbered, [index]).batch)[0] for index in (0, -1)]
            except RowsError as error:
                self._stop(str(error))
                return
            for one, other in zip((whole[0], whole[-1]), alone, strict=True):
                if not same_losses(model, one, other, self.autocast):
                    self._stop(
                        f"an example has a loss of {one:.4g} in its batch and of {other:.4g} by itself, so the rows of "
                        "the batch are not its examples"
                    )
                    return
            self._checked.add(names)

    @torch.no_grad()
    def _losses_again(self, model: nn.Module, batch: Batch) -> list[float]:
        with torch.autocast(batch["labels"].device.type, self.autocast) if self.autocast else nullcontext():
            return Replayed(self.loss_fn)(model, batch).tolist()

    def _stop(self, trouble: str) -> None:
        """Record no more, and keep nothing."""
        self.trouble = self.trouble or trouble
        self._unchecked.clear()
        self.forget()

    def _after_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        # a compiled graph is only left where it trains
        if module.training and torch.is_grad_enabled() and (torch.compiler.is_compiling() or not is_transformed()):
            self._record(module, args, kwargs, output)

    @torch.compiler.disable(reason="losses are kept for the next mask update; auto_update=False keeps none")
    @torch.no_grad()
    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Record the losses of a training step, if it has labels and named outputs."""
        if not self.listening or self.trouble is not None or not is_labelled(args, kwargs):
            return
        if self.concerns is not None and not self.concerns(module):
            return
        self.autocast = bfloat16_autocast(kwargs["labels"].device.type)
        if not isinstance(output, Mapping) or not isinstance(output.get("logits"), Tensor):
            return
        reason = why_not_again(kwargs, batch_size(kwargs))
        if reason is not None:
            self._stop(reason)
            return
        try:
            losses = self._losses(kwargs, output)
        except RowsError as error:  # training goes on
            self._stop(str(error))
            return
        batch = {key: value.detach() if isinstance(value, Tensor) else value for key, value in kwargs.items()}
        self._calls.append(Call(batch, versions(kwargs), losses.detach().float()))
        self._unread += batch_size(kwargs)
        if self._unread >= READ_AT:
            self._read()

    def _losses(self, kwargs: Batch, output: Any) -> Tensor:
        """The losses of a call, or of its tokens if its rows may be packed; raises RowsError if there are none."""
        labels, positions = kwargs["labels"], kwargs.get("position_ids")
        may_be_packed = isinstance(positions, Tensor) and positions.shape == labels.shape and labels.dim() == 2
        if may_be_packed and isinstance(self.loss_fn, TokenLoss):
            with rows_errors():
                self.loss_fn.settle(output, kwargs)
                return self.loss_fn.of_tokens(output["logits"], labels)
        return Replayed(self.loss_fn)(RecordedOutputs(output), kwargs)

    def _read(self) -> None:
        """Fetch the losses of recorded calls, and keep the examples with the highest ones."""
        calls, self._calls, self._unread = self._calls, [], 0
        skipped = 0
        for call in calls:
            try:
                examples = [] if call.changed else self._examples(call)
            except ValueError as error:
                self._stop(str(error).removesuffix("."))
                return
            for loss, key, cut in examples:
                number, self._next = self._next, self._next + 1
                if loss == -math.inf:  # no target
                    continue
                if not math.isfinite(loss):
                    if self.skip_not_finite:
                        skipped += 1
                        continue
                    loss = math.inf  # NaN too: chosen first, and then refused by name
                self._seen.add(key)
                self._kept.pop(key, None)
                self._kept[key] = Heard(loss, number, cut)
        if self.by_loss and len(self._kept) > SPARE * self.most:
            best = sorted(self._kept.items(), key=lambda item: (-item[1].loss, item[1].number))[: SPARE * self.most]
            self._kept = dict(best)
        if skipped:
            warnings.warn(
                f"the losses of {skipped} examples were not finite in training; they are left out when the mask is "
                "chosen. Check these examples and the model's dtype (float16 overflows).",
                UserWarning,
                stacklevel=2,
            )

    def _examples(self, call: Call) -> list[tuple[float, bytes, Batch]]:
        """The loss of each example of a call, a key that is the same whenever the example comes, and its batch.

        Raises:
            RowsError: rows hold several examples, which cannot be told apart.
        """
        packed = segments(call.batch)
        if packed is None:
            loss_of_rows = call.losses
            if call.losses.dim() == 2:
                assert isinstance(self.loss_fn, TokenLoss)
                loss_of_rows = self.loss_fn.of_rows(call.losses, call.batch["labels"])
            losses = loss_of_rows.tolist()
            count, names = len(losses), frozenset(call.batch)
            if count > 1 and names not in self._checked and not are_texts(call.batch, count):
                self._unchecked[names] = call
            numbered = Numbered(list(range(count)), call.batch)
            cut = [rows(numbered, [index]).batch for index in range(count)]
            return list(zip(losses, keys(call.batch, count), cut, strict=True))
        if not isinstance(self.loss_fn, TokenLoss):
            raise RowsError(
                "the rows of a training step hold several examples each (their position_ids begin anew), and loss_fn "
                "gives one loss for a row; switch packing off, or leave loss_fn out"
            )
        found = []
        for segment in packed:
            example = example_of(call.batch, segment)
            tokens = call.losses[segment.row : segment.row + 1, segment.start : segment.stop - self.loss_fn.shifted]
            found.append((float(self.loss_fn.of_rows(tokens, example["labels"])), keys(example, 1)[0], example))
        return found


def form(batch: Batch) -> tuple[Any, ...]:
    """What must be equal of two examples for them to make one batch: shapes, and everything that has no rows."""
    return tuple(
        (key, value.dtype, value.shape)
        if has_row(value)
        else (key, value if isinstance(value, WHOLE) else id(value if is_number(value) else batch))
        for key, value in batch.items()
    )


def is_number(value: Any) -> bool:
    """Whether an argument is a tensor without dimensions, which one call has for all its examples."""
    return isinstance(value, Tensor) and not value.dim()


def has_row(value: Any) -> bool:
    """Whether an argument of an example's forward call has one row, its own."""
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == 1


def length_of(candidate: Candidate) -> int:
    """Number of tokens in an example's input and labels together."""
    batch = candidate.batch or {}
    return sum(batch[key].shape[-1] for key in ("input_ids", "labels") if has_row(batch.get(key)))


def joined(alike: Sequence[Candidate]) -> Numbered:
    """Examples of one form as one batch."""
    batches = [candidate.batch or {} for candidate in alike]
    batch = {
        key: torch.cat([batch[key] for batch in batches]) if has_row(value) else value
        for key, value in batches[0].items()
    }
    return Numbered([candidate.number for candidate in alike], batch)


def is_labelled(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a forward call is given everything by name, `labels` among it."""
    labels = kwargs.get("labels")
    return not args and isinstance(labels, Tensor) and labels.dim() > 0


def versions(batch: Batch) -> list[int | None]:
    return [version_of(value) for value in batch.values() if isinstance(value, Tensor)]
