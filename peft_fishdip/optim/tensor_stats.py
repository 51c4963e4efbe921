"""Figures of whole tensors (means of rows and columns, sums), from the entries of them that are trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..adapter.base_parameter import TunedParameter, at_least_float, read
from ..adapter.state import AdapterState
from ..layers.layer import FishDipLayer, layers_of

CHUNK = 2**20
"""Entries of a base tensor that are squared at a time."""


class Whole:
    """A parameter that is trained as a whole; the methods are those of [`Masked`]."""

    scale = torch.tensor(1.0)

    def __init__(self, parameter: nn.Parameter) -> None:
        self.shape = parameter.shape
        self.matrices = matrices, rows, columns = as_matrices(parameter.shape)
        self.sizes = (matrices * rows, matrices * columns)
        self.numel = parameter.numel()

    def look_up(self, parameter: nn.Parameter) -> None:
        pass

    def means(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        squares = squares.reshape(self.matrices)
        return squares.mean(2).flatten(), squares.mean(1).flatten()

    def inverse_roots(self, row: Tensor, column: Tensor) -> Tensor:
        matrices, rows, columns = self.matrices
        row = row.view(matrices, rows, 1)
        roots = (row / row.mean(1, keepdim=True)).rsqrt() * column.view(matrices, 1, columns).rsqrt()
        return roots.view(self.shape)

    def sums(self, x: Tensor) -> Tensor:
        return x.sum()

    def broadcast_to_entries(self, x: Tensor) -> Tensor:
        return x

    def weight_squares(self, values: Tensor) -> Tensor:
        return values.square().sum()


class Masked:
    """The trainable vector of an adapter, K entries, which are the active ones of the tensors that it tunes.

    Args:
        bases: per delta of the adapter its parameter, a layer that has it, and its name there.

    Attributes:
        matrices: what each tensor is as matrices, see [`as_matrices`].
        sizes: the number of rows, and of columns, of all of them.
        row, column: int32 (K,), where each entry stands among these.
        base: (K,), the base values at the entries, in float32 or float64.
        fixed: float64 (tensors,), sums of squared weights while the active deltas are zero.
        counts, heights: int64, the active entries of each tensor, and the rows of each matrix.
        numel, scale, rows, columns: float64 (tensors,).
    """

    def __init__(self, state: AdapterState, bases: Sequence[tuple[TunedParameter, FishDipLayer, str]]) -> None:
        self.state = state
        self.bases = bases
        self.matrices = [as_matrices(delta.shape) for delta in state.deltas]
        self.sizes = (sum(m * rows for m, rows, _ in self.matrices), sum(m * cols for m, _, cols in self.matrices))
        self.active: list[Tensor] = []

    def look_up(self, vector: nn.Parameter) -> None:
        """Make ready for the mask there is now, if it is not that of the last step."""
        if self.state.flat is not vector:
            raise ValueError(
                f"the vector of adapter {self.state.adapter_name!r} has been replaced since this optimizer was made; "
                "make a SparseAdafactor anew."
            )
        active = [delta.active for delta in self.state.deltas]
        if len(self.active) == len(active) and all(a is b for a, b in zip(active, self.active, strict=True)):
            return
        row, column, base, fixed = [], [], [], []
        first_row = first_column = 0
        for delta, matrices, user in zip(self.state.deltas, self.matrices, self.bases, strict=True):
            (count, rows, columns), (tuned, layer, name) = matrices, user
            row.append((delta.active // columns + first_row).int())
            column.append((delta.active // (rows * columns) * columns + delta.active % columns + first_column).int())
            first_row += count * rows
            first_column += count * columns
            with tuned.lock:
                if tuned.merged_adapters:
                    raise ValueError(f"adapter {tuned.merged_adapters[0]!r} is merged; call unmerge_adapter() first.")
                weight = layer.base_values(name)
                base.append(at_least_float(read(weight, delta.active)))
                inactive, values = read(weight, delta.inactive).double(), delta.inactive_values.double()
                fixed.append(sum_of_squares(weight) + (values * (2 * inactive + values)).sum().view(1))
        self.row, self.column, self.base, self.fixed = (
            torch.cat([part.to(vector.device) for part in parts]) for parts in (row, column, base, fixed)
        )
        self.counts = torch.tensor(self.state.sizes, device=vector.device)
        self.heights = torch.tensor([rows for count, rows, _ in self.matrices for _ in range(count)]).to(vector.device)
        self.numel, self.scale, self.rows, self.columns = torch.tensor(
            [
                (delta.numel, delta.scale, rows, columns)
                for delta, (_, rows, columns) in zip(self.state.deltas, self.matrices, strict=True)
            ],
            dtype=torch.float64,
            device=vector.device,
        ).unbind(1)
        self.active = active

    def means(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Of each row and of each column, given what is not zero of it: float64."""
        row, column = (squares.new_zeros(size) for size in self.sizes)
        row.index_add_(0, self.row, squares / self.broadcast_to_entries(self.columns))
        column.index_add_(0, self.column, squares / self.broadcast_to_entries(self.rows))
        return row, column

    def inverse_roots(self, row: Tensor, column: Tensor) -> Tensor:
        """Per entry 1 / sqrt(V), where V = row * column / (mean of the rows of its matrix)."""
        mean = torch.segment_reduce(row, "mean", lengths=self.heights, unsafe=True)
        row = (row / mean.repeat_interleave(self.heights, output_size=len(row))).rsqrt()
        return row.index_select(0, self.row) * column.rsqrt().index_select(0, self.column)

    def sums(self, x: Tensor) -> Tensor:
        """Per tensor, of what there is per entry."""
        return torch.segment_reduce(x, "sum", lengths=self.counts, unsafe=True)

    def broadcast_to_entries(self, x: Tensor) -> Tensor:
        """Per entry, of what there is per tensor."""
        return x.repeat_interleave(self.counts, output_size=len(self.row))

    def weight_squares(self, values: Tensor) -> Tensor:
        """Per tensor the sum of the squares of all its weights."""
        delta = values * self.broadcast_to_entries(self.scale)
        return (self.fixed + self.sums(delta * (2 * self.base + delta))).clamp(min=0.0)


def as_matrices(shape: torch.Size) -> tuple[int, int, int]:
    """A tensor of this shape as a number of matrices, of rows and of columns, over its last two axes.

    Scalars and vectors are a single column: for it the product of row and column means is exact, which gives the
    unfactored second moment that Adafactor has for them.
    """
    return (math.prod(shape[:-2]), shape[-2], shape[-1]) if len(shape) > 1 else (1, shape.numel(), 1)


def sum_of_squares(tensor: Tensor) -> Tensor:
    """In float64, a part at a time."""
    return torch.stack([part.double().square().sum() for part in tensor.flatten().split(CHUNK)]).sum()


def masked_places(model: nn.Module) -> dict[nn.Parameter, Masked]:
    """Each adapter in the model, by its trainable vector."""
    bases: dict[AdapterState, dict[int, tuple[TunedParameter, FishDipLayer, str]]] = {}
    for layer in layers_of(model):
        for name, tuned in layer.tuned.items():
            for delta in tuned.deltas.values():
                bases.setdefault(delta.state, {}).setdefault(delta.index, (tuned, layer, name))
    return {state.flat: Masked(state, [found[i] for i in range(len(found))]) for state, found in bases.items()}
