"""Transposes that lie contiguous: half of what gradients at single entries of a matrix cost."""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.autograd import Variable

BY_SHUFFLE = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
"""Whether torch shuffles channels with vector instructions, which is quicker than a strided copy."""


def transpose(matrix: Tensor) -> Tensor:
    """The transpose of a matrix, contiguous, in its dtype."""
    height, width = matrix.shape
    size = height * width
    if not (BY_SHUFFLE and size and matrix.is_contiguous() and matrix.dtype == torch.float32 and matrix.is_cpu):
        return matrix.t().contiguous()
    # one pixel whose channels are the entries, in `height` groups: to shuffle them is to transpose
    pixel = matrix.as_strided((1, size, 1, 1), (size, 1, size, size))
    return torch.native_channel_shuffle(pixel, height).as_strided((width, height), (height, 1))


class LastTransposed:
    """The matrix that was transposed last: the query, key and value layers of an attention have the same input."""

    def __init__(self) -> None:
        self.source: Tensor | None = None
        self.version = 0
        self.result: Tensor | None = None

    def of(self, matrix: Tensor) -> Tensor:
        source = self.source
        if torch._C._current_graph_task_id() == -1:  # not in a backward pass
            return transpose(matrix.float())
        if (
            source is None
            or self.result is None
            or source.data_ptr() != matrix.data_ptr()
            or (source.shape, source.stride(), source.dtype) != (matrix.shape, matrix.stride(), matrix.dtype)
            or self.version != matrix._version
        ):
            self.result = transpose(matrix.float())
            self.source, self.version = matrix, matrix._version  # held, so that its memory is not another's
            Variable._execution_engine.queue_callback(self.forget)  # at the end of this backward pass
        return self.result

    def forget(self) -> None:
        self.source = self.result = None


_last = threading.local()


def shared_transpose(matrix: Tensor) -> Tensor:
    """The transpose in float32, contiguous; that of the last matrix in this backward pass is kept."""
    if not hasattr(_last, "slot"):
        _last.slot = LastTransposed()
    slot: LastTransposed = _last.slot
    return slot.of(matrix)
