"""Tensors that the backward pass recomputes, so that they are not kept for it.

Of a norm only the input is kept, as in a frozen model. The normalized input, which the gradient of the gain needs, and
the output, which the gradients of the following linear layers need, are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.weak import WeakTensorKeyDictionary

from ..private import version_of


class Recomputed(NamedTuple):
    """A norm's output, computed under autograd from detached tensors."""

    x: Tensor
    parameters: Mapping[str, Tensor]
    output: Tensor


class Recompute:
    """Recomputes one call of a norm, once for all layers that need its output in a backward pass and for its own.

    `norm` computes it from its input, (..., width), and from effective parameters by name.

    Attributes:
        trained, wants_input: the parameters, and whether the input, that the norm's own backward pass is for.
        users: layers whose backward passes need what is recomputed, and are still to come.
    """

    def __init__(
        self, norm: Callable[[Tensor, Mapping[str, Tensor]], Tensor], parameters: Mapping[str, Tensor], x: Tensor
    ) -> None:
        self.norm = norm
        self.parameters = parameters
        self.trained: Collection[str] = ()
        self.wants_input = False
        device = x.device.type
        self.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        self.users = 0
        self.made: Recomputed | None = None

    def __call__(self, x: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        device, dtype, enabled = self.autocast
        with torch.autocast(device, dtype, enabled=enabled):
            return self.norm(x, self.parameters if parameters is None else parameters)

    def output(self, x: Tensor) -> Tensor:
        """The output, for one of its users: it is computed for the first and dropped after the last."""
        made = self.made or self.recomputed(x)
        self.users -= 1
        self.made = made if self.users > 0 else None
        return made.output.detach()

    def last(self, x: Tensor) -> Recomputed:
        """What is recomputed, for the norm's own backward pass, which comes after those of all layers that read it."""
        made, self.made, self.users = self.made or self.recomputed(x), None, 0
        return made

    def recomputed(self, x: Tensor) -> Recomputed:
        leaf = x.detach().requires_grad_(self.wants_input)
        parameters = {name: p.detach().requires_grad_(name in self.trained) for name, p in self.parameters.items()}
        with torch.enable_grad():
            return Recomputed(leaf, parameters, self(leaf, parameters))


class Source(NamedTuple):
    """What a norm's output can be recomputed from."""

    x: Tensor  # the norm's input
    recompute: Recompute
    version: int | None  # of the output: after a change in place it cannot be recomputed


_sources: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def remember(output: Tensor, x: Tensor, recompute: Recompute) -> None:
    """Record that `output` can be recomputed from the norm's input `x`."""
    _sources[output] = Source(x.detach(), recompute, version_of(output))


def source_of(tensor: Tensor) -> Source | None:
    """What a tensor can be recomputed from, if it is the unchanged output of a norm; None otherwise."""
    source: Source | None = _sources.get(tensor)
    return source if source is not None and source.version == version_of(tensor) else None


@contextmanager
def rebuilt_for_backward(rebuild: Mapping[tuple[int, torch.dtype], Callable[[], Tensor]]) -> Iterator[None]:
    """Within, autograd saves a function that makes an effective tensor instead of the tensor, or of a view of it.

    `rebuild` has these functions by the tensor's address and dtype. Views as another dtype are saved as they are.
    """

    def pack(saved: Tensor) -> Any:
        make = rebuild.get((saved.untyped_storage().data_ptr(), saved.dtype))
        return saved if make is None else (make, saved.size(), saved.stride(), saved.storage_offset())

    def unpack(saved: Any) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        make, size, stride, offset = saved
        return make().as_strided(size, stride, offset)

    with saved_tensors_hooks(pack, unpack):
        yield
