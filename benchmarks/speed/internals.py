"""Parts of peft_fishdip below its public names: the phases of a mask update, and the costs of operations by which the
way to a weight gradient is chosen. No other file here imports such parts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pkgutil import resolve_name
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils.benchmark import Timer, timer

from peft_fishdip.layers.sparse_grad import COSTS, Costs, transpose
from peft_fishdip.selection import num_active as num_active
from peft_fishdip.selection import top_k as top_k

SHAPES = ((512, 512, 512), (2048, 512, 512), (512, 2048, 512), (1024, 1024, 1024))
"""Rows, columns and tokens."""
PHASES = {
    "scan": ("importance.scoring.Scoring.choose",),
    "fisher": ("importance.scoring.accumulate_importance",),
    "selection": ("tuner.mask_update.top_k",),
    "carry_over": ("adapter.state.AdapterState.change_to", "tuner.mask_update.carry_over"),
}
"""The functions that do the work of each phase of a mask update, by the names under which the update calls them."""


class Phases(ExitStack):
    """A context that adds up the seconds which mask updates spend in each phase.

    Attributes:
        seconds: by phase.
        scores: the scores that the last selection chose from.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.scores: dict[str, Tensor] = {}
        for phase, paths in PHASES.items():
            for path in map("peft_fishdip.{}".format, paths):
                self.enter_context(mock.patch(path, self.timed(phase, resolve_name(path))))

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if phase == "selection":
                self.scores = dict(args[0])
            started = timer()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[phase] += timer() - started

        return call


def calibrate() -> Costs:
    """Nanoseconds of each operation on this machine with the threads of torch; the median over shapes."""
    return Costs(*(median(column) for column in zip(*(costs_of(*shape) for shape in SHAPES), strict=True)))


def costs_of(rows: int, columns: int, tokens: int) -> Costs:
    left, right = torch.randn(tokens, rows), torch.randn(tokens, columns)
    count = rows * columns // 100
    active = torch.randperm(rows * columns)[:count].sort().values
    starts = torch.searchsorted(active, torch.arange(rows + 1) * columns)
    pattern = torch.sparse_csr_tensor(starts, active % columns, torch.zeros(count), (rows, columns))
    product, some = left.t() @ right, torch.arange(0, rows, 3)
    tall, wide = transpose(left), transpose(right)
    names = {"torch": torch, "transpose": transpose, **locals()}

    def nanoseconds(statement: str, operations: int) -> Any:
        timer = Timer(statement, globals=names, num_threads=torch.get_num_threads())
        return 1e9 * timer.blocked_autorange(min_run_time=0.2).median / operations

    return Costs(
        multiply=nanoseconds("left.t() @ right", tokens * rows * columns),
        dot=nanoseconds("torch.sparse.sampled_addmm(pattern, tall, wide.t(), beta=0.0).values()", tokens * count),
        move=nanoseconds("transpose(left), transpose(right)", tokens * (rows + columns)),
        gather=nanoseconds("left.index_select(1, some)", tokens * some.numel()),
        pick=nanoseconds("product.view(-1).index_select(0, active)", count),
    )


def costs_in_words() -> str:
    """Measured costs beside those in use, as a table; only their ratios matter."""
    measured = calibrate()
    lines = ["| operation | measured, ns | in use, ns |", "|---|---:|---:|"]
    lines += [f"| {name} | {getattr(measured, name):.4g} | {getattr(COSTS, name):g} |" for name in Costs._fields]
    return "\n".join([*lines, "", f"{torch.get_num_threads()} threads"])
