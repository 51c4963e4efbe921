"""What the operations cost from which `peft_fishdip.layers.sparse_grad` chooses a backend."""

from __future__ import annotations

import warnings
from statistics import median

import torch

from peft_fishdip.layers.sparse_grad import COSTS, Costs, transpose

from .clock import seconds

SHAPES = ((512, 512, 512), (2048, 512, 512), (512, 2048, 512), (1024, 1024, 1024))
"""Rows, columns and tokens."""
DENSITY = 0.01
ROUNDS = 7
CPU = torch.device("cpu")


def calibrate() -> Costs:
    """Nanoseconds of each operation on this machine with the threads that torch has; the median over shapes."""
    found = [costs_of(*shape) for shape in SHAPES]
    return Costs(*(median(column) for column in zip(*found, strict=True)))


def costs_of(rows: int, columns: int, tokens: int) -> Costs:
    """The same for one shape, each the least of several rounds."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(tokens, size, generator=generator) for size in (rows, columns))
    count = int(DENSITY * rows * columns)
    active = torch.randperm(rows * columns, generator=generator)[:count].sort().values
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            torch.searchsorted(active, torch.arange(rows + 1) * columns),
            active % columns,
            torch.zeros(count),
            size=(rows, columns),
            check_invariants=False,
        )
    product = left.t() @ right
    tall, wide = transpose(left), transpose(right)
    some = torch.arange(0, rows, 3)

    def least(work: object, operations: int) -> float:
        assert callable(work)
        work()
        return 1e9 * min(seconds(work, CPU) for _ in range(ROUNDS)) / operations

    return Costs(
        multiply=least(lambda: left.t() @ right, tokens * rows * columns),
        dot=least(lambda: torch.sparse.sampled_addmm(pattern, tall, wide.t(), beta=0.0).values(), tokens * count),
        move=least(lambda: (transpose(left), transpose(right)), tokens * (rows + columns)),
        gather=least(lambda: left.index_select(1, some), tokens * some.numel()),
        pick=least(lambda: product.view(-1).index_select(0, active), count),
    )


def table() -> str:
    """Measured costs beside those that are in use; only their ratios matter."""
    measured = calibrate()
    lines = ["| operation | measured, ns | in use, ns |", "|---|---:|---:|"]
    lines += [f"| {name} | {getattr(measured, name):.4g} | {getattr(COSTS, name):g} |" for name in Costs._fields]
    return "\n".join(lines) + f"\n\n{torch.get_num_threads()} threads\n"
