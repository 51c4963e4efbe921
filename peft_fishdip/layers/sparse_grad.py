"""The gradient of a matrix at its active entries.

There are three backends with the same result. "dense" computes the whole product and gathers the entries; "sampled"
computes one dot product per active entry; "subset" computes the product of the rows and columns that have active
entries. The cheapest is chosen from the shape of the mask and the number of tokens, by measured costs.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..adapter.state import SparseDelta
from ..half_precision import for_product


class Costs(NamedTuple):
    """Nanoseconds on one CPU core, float32; `python -m benchmarks.speed calibrate` measures them. Ratios count."""

    multiply: float = 0.03  # per multiply-add of a matrix product
    dot: float = 0.18  # per multiply-add of a dot product for one active entry
    move: float = 0.9  # per element that is transposed
    gather: float = 0.8  # per element of a gathered column
    pick: float = 4.0  # per active entry that is gathered from a product


COSTS = Costs()

SHUFFLES_FAST = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
"""Whether torch shuffles channels with vector instructions, in about 0.4 of the time of a strided copy."""


class Pattern:
    """The active entries of a matrix in the forms that the backends need, made when first needed.

    Attributes:
        rows, columns: int64, ascending: those that have active entries.
        compact: whether it pays to gather `rows` before they are transposed.
    """

    def __init__(self, delta: SparseDelta) -> None:
        self.shape = (delta.shape[0], delta.shape[-1])
        self.active = delta.active
        self.rows = self.row_of_each().unique_consecutive()
        self.columns = (self.active % self.shape[1]).unique()
        self.compact = self.rows.numel() * (COSTS.gather + COSTS.move) <= self.shape[0] * COSTS.move

    def row_of_each(self) -> Tensor:
        return torch.div(self.active, self.shape[1], rounding_mode="floor")

    def cheapest(self, tokens: int, costs: Costs = COSTS) -> str:
        """ "dense", "sampled" or "subset", whichever costs least with so many tokens."""
        rows, columns = self.shape
        active, some_rows, some_columns = self.active.numel(), self.rows.numel(), self.columns.numel()
        move_rows = some_rows * (costs.gather + costs.move) if self.compact else rows * costs.move
        block = tokens * (some_rows + some_columns) * costs.gather + tokens * some_rows * some_columns * costs.multiply
        prices = {
            "dense": tokens * rows * columns * costs.multiply + active * costs.pick,
            "sampled": tokens * (move_rows + columns * costs.move + active * costs.dot),
            "subset": block + active * costs.pick,
        }
        return min(prices, key=prices.__getitem__)

    @cached_property
    def csr(self) -> Tensor:
        """Zeros at the active entries, as a sparse matrix of all rows or, if `compact`, of `rows`."""
        count, width, device = self.active.numel(), self.shape[1], self.active.device
        rows = self.rows if self.compact else torch.arange(self.shape[0], device=device)
        starts = torch.searchsorted(self.active, rows * width)
        starts = torch.cat([starts, starts.new_tensor([count])])
        values, size = torch.zeros(count, dtype=torch.float32, device=device), (rows.numel(), width)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(starts, self.active % width, values, size=size, check_invariants=False)

    @cached_property
    def within_block(self) -> Tensor:
        """Flat positions of the active entries in the block of `rows` and `columns`: int64."""
        row = torch.searchsorted(self.rows, self.row_of_each())
        return row * self.columns.numel() + torch.searchsorted(self.columns, self.active % self.shape[1])


def pattern_of(delta: SparseDelta) -> Pattern:
    if delta.entries.pattern is None:
        delta.entries.pattern = Pattern(delta)
    pattern: Pattern = delta.entries.pattern
    return pattern


def matrix_gradient(left: Tensor, right: Tensor, delta: SparseDelta) -> Tensor:
    """Entries of `left.T @ right` at the active positions, in the dtype of `left` or in float32, by the cheapest way.

    The shapes are (tokens, rows) and (tokens, columns) for a parameter of shape (rows, columns).
    """
    if not delta.active.numel():
        return left.new_empty(0)
    if left.device.type != "cpu" or left.dtype == torch.float64:
        return dense_gradient(left, right, delta)  # the costs are those of float32 on a CPU
    return BACKENDS[pattern_of(delta).cheapest(left.shape[0])](left, right, delta)


def dense_gradient(left: Tensor, right: Tensor, delta: SparseDelta) -> Tensor:
    """[`matrix_gradient`] by the whole product and a gather, which takes at most 0.2 % of its time."""
    return for_product(left).t().matmul(for_product(right)).view(-1).index_select(0, delta.active)


def sampled_gradient(left: Tensor, right: Tensor, delta: SparseDelta) -> Tensor:
    """[`matrix_gradient`] by one dot product of `tokens` terms for each active position; float32."""
    pattern = pattern_of(delta)
    # the kernel reads rows of its first and columns of its second operand: both lie contiguous this way
    rows = transpose((left.index_select(1, pattern.rows) if pattern.compact else left).float())
    columns = transpose(right.float()).t()
    return torch.sparse.sampled_addmm(pattern.csr, rows, columns, beta=0.0).values()


def transpose(matrix: Tensor) -> Tensor:
    """The transpose of a float32 matrix, contiguous."""
    height, width = matrix.shape
    size = height * width
    if not (SHUFFLES_FAST and size and matrix.is_contiguous() and matrix.is_cpu):
        return matrix.t().contiguous()
    # one pixel whose channels are the entries, in `height` groups: to shuffle them is to transpose
    pixel = matrix.as_strided((1, size, 1, 1), (size, 1, size, size))
    return torch.native_channel_shuffle(pixel, height).as_strided((width, height), (height, 1))


def subset_gradient(left: Tensor, right: Tensor, delta: SparseDelta) -> Tensor:
    """[`matrix_gradient`] by the product of the rows and columns that have active entries, and a gather."""
    pattern = pattern_of(delta)
    some_left, some_right = left.index_select(1, pattern.rows), right.index_select(1, pattern.columns)
    return for_product(some_left).t().matmul(for_product(some_right)).view(-1).index_select(0, pattern.within_block)


BACKENDS = {"dense": dense_gradient, "sampled": sampled_gradient, "subset": subset_gradient}


def row_gradient(rows: Tensor, dense: Tensor, delta: SparseDelta) -> Tensor:
    """The gradient at the active positions of a table of which only some rows have one.

    These are `rows`, int64 (r,), ascending, and `dense`, (r, columns), are their gradients.
    """
    if not rows.numel():
        return dense.new_zeros(delta.active.numel())
    columns = delta.shape[-1]
    active_rows = torch.div(delta.active, columns, rounding_mode="floor")
    index = torch.searchsorted(rows, active_rows).clamp_(max=rows.numel() - 1)
    values = dense.view(-1).index_select(0, index * columns + delta.active % columns)
    return torch.where(rows[index] == active_rows, values, 0)
