"""Which tensors are one parameter: those that are the same view of one memory, whatever the objects."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Region(NamedTuple):
    """The bytes from the first to the last entry of a tensor."""

    device: str
    start: int
    end: int


def identity(tensor: Tensor) -> Hashable:
    """Equal for tensors that are the same view of one memory.

    A tensor without memory of its own (on meta, empty, or of a subclass that holds others) equals only itself.
    """
    region = region_of(tensor)
    if region is None:
        return id(tensor)
    axes = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
    return region, tensor.dtype, tensor.shape, tuple(axes)


def region_of(tensor: Tensor) -> Region | None:
    """Where a tensor's memory is, if it has some."""
    known = tensor.layout == torch.strided and type(tensor.data) is Tensor
    if tensor.is_meta or not known or not tensor.numel() or not tensor.data_ptr():
        return None
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return Region(str(tensor.device), start, start + extent * tensor.element_size())


def share_entries(a: Tensor, b: Tensor) -> bool:
    """Whether some memory belongs to both tensors, whose regions overlap."""
    first, second = bytes_of(a), bytes_of(b)
    common = max(first[0], second[0]), min(first[0] + len(first[1]), second[0] + len(second[1]))
    parts = [taken[common[0] - start : common[1] - start] for start, taken in (first, second)]
    return bool((parts[0] & parts[1]).any())


def repeats_entries(tensor: Tensor) -> bool:
    """Whether several positions of a tensor are one entry, as in one that was expanded."""
    if region_of(tensor) is None or tensor.is_contiguous():
        return False
    return int(bytes_of(tensor)[1].sum()) < tensor.numel() * tensor.element_size()


def bytes_of(tensor: Tensor) -> tuple[int, Tensor]:
    """The first address of a tensor's region, and for each byte of the region whether it belongs to the tensor."""
    region, size = region_of(tensor), tensor.element_size()
    assert region is not None
    taken = torch.zeros(region.end - region.start, dtype=torch.bool, device="cpu")
    shape, strides = (*tensor.shape, size), (*(stride * size for stride in tensor.stride()), 1)
    taken.as_strided(shape, strides).fill_(True)
    return region.start, taken


def overlapping(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[tuple[str, Tensor], tuple[str, Tensor]]]:
    """All pairs of tensors whose regions overlap, the same views of one memory included."""
    found = [(region, name, tensor) for name, tensor in tensors if (region := region_of(tensor)) is not None]
    open_ones: list[tuple[Region, str, Tensor]] = []
    for region, name, tensor in sorted(found, key=lambda item: item[0]):
        open_ones = [other for other in open_ones if other[0].device == region.device and other[0].end > region.start]
        yield from (((other, of_other), (name, tensor)) for _, other, of_other in open_ones)
        open_ones.append((region, name, tensor))


class Replaced:
    """A parameter of the base model in whose place stands another Parameter that views the same memory.

    It is given back when the adapter leaves. Copies of a model make a new one then.
    """

    def __init__(self, parameter: nn.Parameter | None) -> None:
        self.parameter = parameter

    def __deepcopy__(self, memo: Any) -> Replaced:
        return Replaced(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return Replaced, (None,)

    def given_back(self, current: nn.Parameter) -> nn.Parameter:
        """The parameter, as a view of the memory of the one that stood in its place."""
        parameter = self.parameter
        if parameter is None:
            return nn.Parameter(current.detach(), requires_grad=current.requires_grad)
        if identity(parameter) != identity(current):  # the model was moved or cast
            parameter.data = current.data
        parameter.requires_grad = current.requires_grad
        return parameter
