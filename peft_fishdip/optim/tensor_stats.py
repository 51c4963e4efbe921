"""Row and column means, sums and RMS of whole tensors, computed from the entries that are trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..adapter.base_parameter import TunedParameter, at_least_float, read
from ..adapter.state import AdapterState
from ..layers.layer import FishDipLayer, layers_of

CHUNK = 2**20  # entries of a base tensor that are converted to float64 at a time


class DenseStats:
    """Statistics of a parameter that is trained as a whole; the methods are those of [`SparseStats`]."""

    scale = torch.tensor(1.0, dtype=torch.float32, device="cpu")

    def __init__(self, parameter: nn.Parameter) -> None:
        self.shape = parameter.shape
        self.matrices = matrices, rows, columns = as_matrices(parameter.shape)
        self.sizes = (matrices * rows, matrices * columns)
        self.numel = parameter.numel()

    def prepare(self, parameter: nn.Parameter) -> None:
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


class SparseStats:
    """Statistics of the tensors that an adapter tunes, from the K entries of its trainable vector.

    Args:
        state: the adapter.
        bases: per delta of the adapter its base parameter, a layer that owns it, and its name in that layer.

    Attributes:
        matrices: per tensor the number of matrices, rows and columns, see [`as_matrices`].
        sizes: the number of rows and the number of columns of all matrices together.
        row, column: int32 (K,), the row and the column of each entry among these.
        base: (K,), the base values at the entries, in float32 or float64.
        fixed: float64 (tensors,), the sum of squared weights if all active deltas were zero.
        counts, heights: int64, the active entries of each tensor and the rows of each matrix.
        numel, scale, rows, columns: float64 (tensors,).
    """

    def __init__(self, state: AdapterState, bases: Sequence[tuple[TunedParameter, FishDipLayer, str]]) -> None:
        self.state = state
        self.bases = bases
        self.matrices = [as_matrices(delta.shape) for delta in state.deltas]
        self.sizes = (sum(m * rows for m, rows, _ in self.matrices), sum(m * cols for m, _, cols in self.matrices))
        self.active: list[Tensor] = []

    def prepare(self, vector: nn.Parameter) -> None:
        """Compute the attributes anew if the mask has changed; refuse a merged adapter or a replaced vector."""
        if self.state.flat is not vector:
            raise ValueError(
                f"the vector of adapter {self.state.adapter_name!r} has been replaced since this optimizer was made; "
                "make a SparseAdafactor anew."
            )
        active = [delta.active for delta in self.state.deltas]
        if len(self.active) == len(active) and all(a is b for a, b in zip(active, self.active, strict=True)):
            return
        row, column, base, fixed, heights, per_tensor = [], [], [], [], [], []
        first_row = first_column = 0
        for delta, matrices, user in zip(self.state.deltas, self.matrices, self.bases, strict=True):
            (count, rows, columns), (tuned, layer, name) = matrices, user
            row.append((delta.active // columns + first_row).int())
            column.append((delta.active // (rows * columns) * columns + delta.active % columns + first_column).int())
            first_row += count * rows
            first_column += count * columns
            heights += [rows] * count
            per_tensor.append((delta.numel, delta.scale, rows, columns))
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
        self.heights = torch.tensor(heights, device=vector.device)
        table = torch.tensor(per_tensor, dtype=torch.float64, device=vector.device)
        self.numel, self.scale, self.rows, self.columns = table.unbind(1)
        self.active = active

    def means(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Row means and column means, from values at the entries and zeros elsewhere; float64."""
        row, column = (squares.new_zeros(size) for size in self.sizes)
        row.index_add_(0, self.row, squares / self.broadcast_to_entries(self.columns))
        column.index_add_(0, self.column, squares / self.broadcast_to_entries(self.rows))
        return row, column

    def inverse_roots(self, row: Tensor, column: Tensor) -> Tensor:
        """Per entry 1 / sqrt(V), where V = row * column / (mean of all rows of its matrix)."""
        mean = torch.segment_reduce(row, "mean", lengths=self.heights, unsafe=True)
        row = (row / mean.repeat_interleave(self.heights, output_size=len(row))).rsqrt()
        return row.index_select(0, self.row) * column.rsqrt().index_select(0, self.column)

    def sums(self, x: Tensor) -> Tensor:
        """Sum numbers per entry over each tensor."""
        return torch.segment_reduce(x, "sum", lengths=self.counts, unsafe=True)

    def broadcast_to_entries(self, x: Tensor) -> Tensor:
        """Repeat numbers per tensor for each of its entries."""
        return x.repeat_interleave(self.counts, output_size=len(self.row))

    def weight_squares(self, values: Tensor) -> Tensor:
        """Per tensor the sum of squares of its weights, base plus delta, given the values of the vector."""
        delta = values * self.broadcast_to_entries(self.scale)
        return (self.fixed + self.sums(delta * (2 * self.base + delta))).clamp(min=0.0)


def as_matrices(shape: torch.Size) -> tuple[int, int, int]:
    """Numbers of matrices, rows and columns of a tensor of this shape; its last two axes are matrices.

    Scalars and vectors count as one column. The product of row and column means is then exact, as in Adafactor, which
    does not factor the second moment of vectors.
    """
    return (math.prod(shape[:-2]), shape[-2], shape[-1]) if len(shape) > 1 else (1, shape.numel(), 1)


def sum_of_squares(tensor: Tensor) -> Tensor:
    """The sum of squares in float64, computed in chunks."""
    return torch.stack([part.double().square().sum() for part in tensor.flatten().split(CHUNK)]).sum()


def sparse_stats(model: nn.Module) -> dict[nn.Parameter, SparseStats]:
    """The statistics of each adapter in the model, by its trainable vector."""
    bases: dict[AdapterState, dict[int, tuple[TunedParameter, FishDipLayer, str]]] = {}
    for layer in layers_of(model):
        for name, tuned in layer.tuned.items():
            for delta in tuned.deltas.values():
                bases.setdefault(delta.state, {}).setdefault(delta.index, (tuned, layer, name))
    return {state.flat: SparseStats(state, [found[i] for i in range(len(found))]) for state, found in bases.items()}
