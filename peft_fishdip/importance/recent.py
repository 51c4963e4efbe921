"""The losses that training has just computed, in place of a scan of all examples."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .examples import row
from .losses import Batch, LossFn, batch_size


class RecentExamples:
    """The training examples with the highest losses since the last mask update.

    A scan of all examples is most of what an update costs on a large set. Here losses are those of the training steps
    themselves: with dropout, and each at the parameters of its step. Examples that no step took are not looked at.

        recent = model.base_model.recent_examples()
        for step, batch in enumerate(loader):
            if step and step % 100 == 0:
                model.base_model.update_mask(recent, optimizer=optimizer)
            ...

    Args:
        model: a transformers model, without PEFT's wrapper; its forward calls in training mode are listened to.
        loss_fn: the losses of a batch's examples; it is given an object that returns the outputs of the call.
        most: examples to keep.

    Attributes:
        seen: examples since the last update.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, most: int) -> None:
        self.loss_fn = loss_fn
        self.most = most
        self.forget()
        self._handle = model.register_forward_hook(self._listen, with_kwargs=True)

    def forget(self) -> None:
        """Begin anew; `update_mask` calls this when it has used the examples."""
        self.seen = 0
        self._kept: list[tuple[float, int, Batch]] = []

    def close(self) -> None:
        """Stop listening."""
        self._handle.remove()

    def __len__(self) -> int:
        return len(self._kept)

    def candidates(self) -> Iterator[tuple[float, int, Batch]]:
        """Loss, number (in the order of training) and batch of one, of each example that is kept."""
        yield from ((loss, -number, batch) for loss, number, batch in self._kept)

    @torch.no_grad()
    def _listen(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Note the losses of a training step; one without labels, or whose outputs have no names, tells nothing."""
        if (
            not module.training
            or args
            or not isinstance(kwargs.get("labels"), Tensor)
            or not isinstance(output, Mapping)
        ):
            return
        for index in range(batch_size(kwargs)):
            example = row(kwargs, index)
            outputs = Recorded(output, index, batch_size(kwargs))
            loss = float(self.loss_fn(outputs, example).sum())
            entry = (loss if loss == loss else float("inf"), -self.seen, example)  # whoever scores it will refuse it
            self.seen += 1
            if len(self._kept) < self.most:
                heapq.heappush(self._kept, entry)
            else:
                heapq.heappushpop(self._kept, entry)


class Recorded(nn.Module):
    """Stands for a model whose outputs for one example are known."""

    def __init__(self, output: Any, index: int, size: int) -> None:
        super().__init__()
        self.output = type(output)(
            {
                key: value[index : index + 1].detach()
                for key, value in output.items()
                if isinstance(value, Tensor) and value.dim() and len(value) == size
            }
        )

    def forward(self, **_: Any) -> Any:
        return self.output
