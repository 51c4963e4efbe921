"""The training steps' own losses as a source of examples, instead of a scan of the training set."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import world
from .examples import Candidate, ExampleSource, Priorities, rows
from .losses import Batch, LossFn, Numbered, batch_size


class RecentExamples(ExampleSource):
    """The training examples with the highest losses since the last mask update.

    On a large training set, most of the time of a mask update goes into the losses of all examples. This source uses
    the losses of the training steps instead: computed with dropout, each with the parameters of its step. Examples that
    were not trained on since the last update cannot be chosen.

        recent = model.base_model.recent_examples()
        for step, batch in enumerate(loader):
            if step and step % 100 == 0:
                model.base_model.update_mask(recent, optimizer=optimizer)
            ...

    Args:
        model: a transformers model, without PEFT's wrapper. A hook on it records each forward call in training mode
            that is given `labels` by name.
        loss_fn: the losses of a batch's examples; its model argument returns the recorded outputs.
        most: number of examples to keep.

    Attributes:
        seen: number of examples recorded since the last update.
    """

    empty_message = (
        "no training step has recorded losses since the last update: call model.train(), and the model with "
        "labels=... by name; or update the mask by the examples themselves."
    )

    def __init__(self, model: nn.Module, loss_fn: LossFn, most: int) -> None:
        self.loss_fn = loss_fn
        self.most = most
        self.forget()
        self._handle = model.register_forward_hook(self._record, with_kwargs=True)

    def forget(self) -> None:
        """Discard all recorded examples; `update_mask` does this after it has used them."""
        self.seen = 0
        self._kept: list[tuple[float, int, Batch]] = []

    def close(self) -> None:
        """Stop recording."""
        self._handle.remove()

    def __len__(self) -> int:
        """Number of examples that are kept."""
        return len(self._kept)

    def candidates(self, priorities: Priorities | None = None) -> Iterator[Candidate]:
        """The kept examples with their losses, numbered in the order of training; `priorities` is not used."""
        rank, ranks = world()
        for loss, number, batch in self._kept:
            yield Candidate(loss, -number * ranks + rank, batch)

    @torch.no_grad()
    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Record the losses of a training step, if it has labels and named outputs."""
        labelled = not args and isinstance(kwargs.get("labels"), Tensor)
        if not module.training or not labelled or not isinstance(output, Mapping):
            return
        step = Numbered(list(range(self.seen, self.seen + batch_size(kwargs))), kwargs)
        for index, loss in enumerate(self.loss_fn(RecordedOutputs(output), kwargs).float().tolist()):
            if loss != loss:
                loss = float("inf")  # NaN: chosen first, and then refused by name
            keep = heapq.heappush if len(self._kept) < self.most else heapq.heappushpop
            keep(self._kept, (loss, -step.ids[index], rows(step, [index]).batch))
        self.seen += len(step.ids)


class RecordedOutputs(nn.Module):
    """A model that returns the given outputs instead of computing any."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, **_: Any) -> Any:
        return self.output
