"""Outputs of norms that are made again in the backward pass instead of being kept for it.

Beside a norm's input, which a frozen model keeps too, nothing else is then needed: neither the normalized input, for
the gradient of the gain, nor the output, for those of the linear layers that read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.weak import WeakTensorKeyDictionary

from ..private import version_of

Norm = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""From an input and effective parameters by name to the output; both tensors of shape (..., width)."""


class Recompute:
    """Makes the output of one call of a norm again; those who need it in a backward pass share what was made."""

    def __init__(self, norm: Norm, parameters: Mapping[str, Tensor], x: Tensor) -> None:
        self.norm = norm
        self.parameters = parameters
        device = x.device.type
        self.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        self.users = 0
        self.made: Tensor | None = None

    def __call__(self, x: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        device, dtype, enabled = self.autocast
        with torch.autocast(device, dtype, enabled=enabled):
            return self.norm(x, self.parameters if parameters is None else parameters)

    @torch.no_grad()
    def output(self, x: Tensor) -> Tensor:
        """The output, for one of its users: the first makes it, the last drops it."""
        output = self(x) if self.made is None else self.made
        self.users -= 1
        self.made = output if self.users > 0 else None
        return output


class Source(NamedTuple):
    """What a norm's output can be made from."""

    x: Tensor
    recompute: Recompute
    version: int | None
    """Of the output: once it is changed in place, it cannot be made again."""


_sources: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def remember(output: Tensor, x: Tensor, recompute: Recompute) -> None:
    _sources[output] = Source(x.detach(), recompute, version_of(output))


def source_of(tensor: Tensor) -> Source | None:
    """What this very tensor can be made from again, if it is the output of a norm."""
    source: Source | None = _sources.get(tensor)
    return source if source is not None and source.version == version_of(tensor) else None


@contextmanager
def rebuilt_for_backward(rebuild: Mapping[tuple[int, torch.dtype], Callable[[], Tensor]]) -> Iterator[None]:
    """Within, autograd saves a function that makes an effective tensor instead of the tensor, or of a view of it.

    Args:
        rebuild: the function, by the address of the tensor's storage and its dtype. Views as another dtype are saved
            as they are.
    """

    def pack(saved: Tensor) -> Any:
        key = saved.untyped_storage().data_ptr(), saved.dtype
        if key not in rebuild:
            return saved
        return rebuild[key], saved.size(), saved.stride(), saved.storage_offset()

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        make, size, stride, offset = packed
        return make().as_strided(size, stride, offset)

    with saved_tensors_hooks(pack, unpack):
        yield
