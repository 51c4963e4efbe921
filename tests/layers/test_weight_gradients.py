"""The ways to compute the gradient of a linear layer's delta agree, and the cheapest one is chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from peft_fishdip.adapter.state import SparseDelta
from peft_fishdip.layers import sparse_grad
from peft_fishdip.layers.sparse_grad import BACKENDS, Costs, Pattern, matrix_gradient, pattern_of

from ..support.models import UNSCORED, tuned

pytestmark = pytest.mark.filterwarnings(UNSCORED)


@pytest.mark.parametrize("tokens", [0, 1, 7])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 6), (6, 1)])
@pytest.mark.parametrize("count", [1, 4, None])
def test_the_backends_of_the_weight_gradient_agree(shape: tuple[int, int], count: int | None, tokens: int) -> None:
    base = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False))
    total = base[0].weight.numel()
    model = tuned(base, density=(count or total) / total)
    delta = delta_of(model)
    left, right = torch.randn(tokens, shape[0]), torch.randn(tokens, shape[1])
    expected = (left.t() @ right).reshape(-1)[delta.active]
    for backend in (*BACKENDS.values(), matrix_gradient):
        torch.testing.assert_close(backend(left, right, delta), expected, rtol=1e-5, atol=1e-6)


def delta_of(model: Any) -> SparseDelta:
    """The delta to the weight of a model of one linear layer, as the backends of its gradient take it."""
    [delta] = model.base_model.model[0].deltas("weight")
    return delta


def delta_with(rows: list[int], columns: list[int], shape: tuple[int, int]) -> SparseDelta:
    """A mask of all entries in the given rows and columns."""
    model = tuned(nn.Sequential(nn.Linear(shape[1], shape[0], bias=False)), density=1.0)
    delta = delta_of(model)
    grid = torch.tensor(rows).unsqueeze(1) * shape[1] + torch.tensor(columns)
    delta.set_positions(grid.flatten(), delta.inactive[:0], delta.inactive_values[:0])
    return delta


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [([2], [0, 3]), ([0, 7, 8], [1]), (list(range(9)), [4]), ([8], [5])])
def test_the_backends_agree_on_clustered_masks(rows: list[int], columns: list[int], dtype: torch.dtype) -> None:
    delta = delta_with(rows, columns, (9, 6))
    left, right = torch.randn(11, 9).to(dtype), torch.randn(11, 6).to(dtype)
    expected = (left.float().t() @ right.float()).reshape(-1)[delta.active]
    for backend in BACKENDS.values():
        found = backend(left, right, delta).float()
        torch.testing.assert_close(found, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)


def test_the_cheapest_backend_is_chosen_by_the_mask_and_the_costs() -> None:
    def mask(count: int, rows: int, columns: int) -> Pattern:
        generator = torch.Generator().manual_seed(0)
        inside = torch.randperm(rows * columns, generator=generator)[:count].sort().values
        base = nn.Sequential(nn.Linear(256, 256, bias=False))
        delta = delta_of(tuned(base, density=1.0))
        delta.set_positions(inside // columns * 256 + inside % columns, delta.inactive[:0], delta.inactive_values[:0])
        return pattern_of(delta)

    costs = Costs(multiply=0.025, dot=0.13, move=1.2, gather=1.2, pick=1.5)
    assert mask(655, 256, 256).cheapest(100, costs) == "sampled"  # 1 %, everywhere
    assert mask(26_000, 256, 256).cheapest(100, costs) == "dense"  # 40 %
    assert mask(6_000, 80, 80).cheapest(100, costs) == "subset"  # almost all of a block
    assert mask(655, 256, 256).cheapest(100, costs._replace(dot=13.0)) == "dense"
    assert mask(6_000, 80, 80).cheapest(100, costs._replace(gather=100.0, move=100.0)) == "dense"


def test_all_backends_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    for name, backend in BACKENDS.items():
        monkeypatch.setitem(sparse_grad.BACKENDS, name, lambda *a, n=name, f=backend: (used.append(n), f(*a))[1])
    for active in (torch.arange(0, 90_000, 301), torch.arange(90_000), torch.arange(9_000)):
        model = tuned(nn.Sequential(nn.Linear(300, 300, bias=False)), density=active.numel() / 90_000)
        scores = torch.zeros(90_000)
        scores[active] = 1.0
        model.base_model.set_mask({"0.weight": scores.view(300, 300)})
        model(torch.randn(50, 300)).sum().backward()
    assert used == ["sampled", "dense", "subset"]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (1, 7), (7, 1), (64, 48), (0, 4), (4, 0)])
def test_transposes_are_contiguous_and_right(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], fast: bool
) -> None:
    monkeypatch.setattr(sparse_grad, "SHUFFLES_FAST", fast)
    matrix = torch.randn(shape)
    for given in (matrix, torch.randn(shape[::-1]).t(), torch.randn(2 * shape[0], shape[1])[::2]):
        found = sparse_grad.transpose(given)
        assert torch.equal(found, given.t())
        assert found.is_contiguous()
