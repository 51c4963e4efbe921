"""Arithmetic of sparse rows, against dense vectors and PEFT's functions for them, and by its laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import merge_utils
from torch import Tensor

from peft_fishdip.adapter.arithmetic import (
    Row,
    dropped,
    elected,
    intersection_of,
    trimmed,
    union_of,
    values_at,
    weighted_sum,
)

SIZE = 24
VALUES = st.floats(-4.0, 4.0, width=32)
ROWS = st.dictionaries(st.integers(0, SIZE - 1), VALUES, max_size=SIZE).map(lambda found: row_of(found))
WEIGHTS = st.sampled_from([1.0, -1.0, 0.5, 0.3, -2.7, 0.0])


def row_of(found: dict[int, float]) -> Row:
    positions = sorted(found)
    return torch.tensor(positions, dtype=torch.int64), torch.tensor([found[i] for i in positions], dtype=torch.float32)


def dense(row: Row) -> Tensor:
    """The row as a vector with zeros."""
    vector = torch.zeros(SIZE)
    for position, value in zip(row[0].tolist(), row[1].tolist(), strict=True):
        vector[position] = value
    return vector


def same_bits(a: Row, b: Row) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1].view(torch.int32), b[1].view(torch.int32))


@given(rows=st.lists(ROWS, min_size=1, max_size=3), data=st.data())
def test_sums_are_those_of_dense_vectors(rows: list[Row], data: Any) -> None:
    weights = [data.draw(WEIGHTS) for _ in rows]
    union, common = (set.union, set.intersection)
    places = [set(positions.tolist()) for positions, _ in rows]
    expected = torch.zeros(SIZE)
    for row, weight in zip(rows, weights, strict=True):
        expected = expected + dense(row) * weight
    for chosen, found in ((union, union_of(rows)), (common, intersection_of(rows))):
        assert found.tolist() == sorted(chosen(*places))
        positions, values = weighted_sum(rows, weights, found)
        assert torch.equal(positions, found)
        assert torch.equal(values, expected[positions])


@given(a=ROWS, b=ROWS)
def test_laws_that_hold_exactly(a: Row, b: Row) -> None:
    def sum_of(rows: list[Row], weights: list[float]) -> Row:
        return weighted_sum(rows, weights, union_of(rows))

    assert torch.equal(sum_of([a, b], [1.0, 1.0])[1], sum_of([b, a], [1.0, 1.0])[1])
    negative = sum_of([a], [-1.0])
    assert torch.equal(negative[1], -a[1])
    assert torch.equal(sum_of([negative], [-1.0])[1], a[1])
    nothing = sum_of([a, negative], [1.0, 1.0])
    assert torch.equal(nothing[0], a[0])
    assert not nothing[1].any()
    halved = sum_of([a], [2.0**-3])
    assert torch.equal(sum_of([halved], [2.0**3])[1], a[1]) or bool((a[1].abs() < 1e-30).any())
    apart = ~torch.isin(b[0], a[0])
    other = (b[0][apart], b[1][apart])
    assert torch.equal(dense(sum_of([a, other], [1.0, 1.0])), dense(a) + dense(other))


@given(row=ROWS, density=st.sampled_from([0.1, 0.34, 0.5, 0.99, 1.0]))
def test_trimming_keeps_the_largest_of_the_entries(row: Row, density: float) -> None:
    positions, values = trimmed(row, density)
    ranked = sorted(zip(row[0].tolist(), row[1].tolist(), strict=True), key=lambda entry: (-abs(entry[1]), entry[0]))
    kept = sorted(ranked[: int(density * len(ranked))])
    assert list(zip(positions.tolist(), values.tolist(), strict=True)) == kept


@settings(max_examples=200)
@given(rows=st.lists(ROWS, min_size=1, max_size=3), method=st.sampled_from(["total", "frequency"]), data=st.data())
def test_elections_are_those_of_peft_on_dense_vectors(rows: list[Row], method: Any, data: Any) -> None:
    weights = [data.draw(WEIGHTS) for _ in rows]
    stacked = torch.stack([dense(row) for row in rows])
    sums = stacked.sum(0)
    agree = merge_utils.calculate_majority_sign_mask(stacked, method)
    expected = merge_utils.disjoint_merge(stacked * torch.tensor(weights)[:, None], agree)
    positions, values = elected(rows, weights, method)
    assert torch.equal(positions, union_of(rows))
    clear = (sums[positions].abs() > 1e-4) | (len(rows) < 3) | torch.tensor(method == "frequency")
    torch.testing.assert_close(values[clear], expected[positions][clear], rtol=1e-6, atol=1e-7)
    outside = torch.ones(SIZE, dtype=torch.bool)
    outside[positions] = False
    assert not expected[outside].any()


@pytest.mark.parametrize("density", [0.25, 0.9])
def test_dropping_is_that_of_peft_with_the_same_draws(density: float) -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    row = torch.arange(0, 10000, 2), values
    torch.manual_seed(3)
    expected = merge_utils.prune(values, density, method="random", rescale=True)
    torch.manual_seed(3)
    positions, kept = dropped(row, density)
    assert torch.equal(positions, row[0][expected != 0])
    assert torch.equal(kept, expected[expected != 0])
    assert abs(len(kept) / 5000 - density) < 0.03
    repeated = [dropped(row, density, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert same_bits(*repeated)


def test_rows_without_entries_are_zero_everywhere() -> None:
    nothing = row_of({})
    assert values_at(nothing, torch.tensor([3, 5])).tolist() == [0.0, 0.0]
    assert intersection_of([row_of({1: 2.0}), nothing]).numel() == 0
    assert elected([nothing, nothing], [1.0, 1.0], "total")[0].numel() == 0
