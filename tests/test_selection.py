"""The global top K is that of a stable sort, bit for bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peft_fishdip import selection
from peft_fishdip.selection import distinct_integers, num_active, random_positions, top_k

from .support.reference import global_top_k

FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.0000001, 2.0**-126])
ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def scores(draw: Any) -> tuple[dict[str, Tensor], int]:
    element = draw(st.sampled_from([FEW, ANY, st.just(0.0), st.just(0.25)]))
    shapes = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=4))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    tensors = {}
    for index, shape in enumerate(shapes):
        values = draw(st.lists(element, min_size=math.prod(shape), max_size=math.prod(shape)))
        tensor = torch.tensor(values, dtype=torch.float32).view(shape).to(dtype)
        tensors[f"t{index}"] = tensor.clamp(-6e4, 6e4) if dtype == torch.float16 else tensor.nan_to_num()
        if draw(st.booleans()):
            tensors[f"t{index}"] = tensors[f"t{index}"].t().contiguous().t()  # other strides
    total = sum(tensor.numel() for tensor in tensors.values())
    return tensors, draw(st.one_of(st.just(1), st.just(max(total, 1)), st.integers(1, max(total, 1))))


@settings(max_examples=300, deadline=None)
@given(
    case=scores(),
    chunk=st.sampled_from([1, 3, 1 << 20]),
    sample=st.sampled_from([1, 5, 1 << 18]),
    small_share=st.sampled_from([1, 20, 1 << 40]),
)
def test_the_choice_is_that_of_a_stable_sort(
    case: tuple[dict[str, Tensor], int], chunk: int, sample: int, small_share: int
) -> None:
    tensors, k = case
    if sum(tensor.numel() for tensor in tensors.values()) == 0:
        with pytest.raises(ValueError, match="k=1 entries cannot be chosen from 0 scores"):
            top_k(tensors, k)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "CHUNK", chunk)
        patch.setattr(selection, "SAMPLE", sample)
        patch.setattr(selection, "SMALL_SHARE", small_share)
        chosen = top_k(tensors, k)
    expected = global_top_k({name: tensor.float() for name, tensor in tensors.items()}, k)
    for name, mask in expected.items():
        assert chosen.positions[name].tolist() == mask.flatten().nonzero().squeeze(1).tolist()
        assert chosen.positions[name].dtype == torch.int64
    assert chosen.threshold == min(float(t.float()[expected[n]].min()) for n, t in tensors.items() if expected[n].any())


def test_ties_go_to_the_first_tensor_and_the_lowest_position() -> None:
    same = {"b": torch.full((2, 3), 0.5), "a": torch.full((4,), 0.5)}
    assert [p.tolist() for p in top_k(same, 8).positions.values()] == [[0, 1, 2, 3, 4, 5], [0, 1]]
    zeros = {"x": torch.tensor([-0.0, 0.0, -0.0]), "y": torch.tensor([0.0, 1.0])}
    assert [p.tolist() for p in top_k(zeros, 3).positions.values()] == [[0, 1], [1]]


def test_scores_that_differ_in_the_last_bit_are_ordered_beyond_a_chunk() -> None:
    size = selection.CHUNK + 70_000
    score = torch.ones(size)
    winners = [3, selection.CHUNK - 1, selection.CHUNK, size - 1]
    score[winners] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert top_k({"a": score}, 4).positions["a"].tolist() == winners
    assert top_k({"a": score}, 6).positions["a"].tolist() == [0, 1, 3, *winners[1:]]


@pytest.mark.parametrize("outlier", [0.0, 2.0])
def test_a_sample_that_misleads_changes_no_result(monkeypatch: pytest.MonkeyPatch, outlier: float) -> None:
    monkeypatch.setattr(selection, "SAMPLE", 10)
    monkeypatch.setattr(selection, "CHUNK", 64)
    score = torch.rand(1000) + 0.5
    score[::100] = outlier  # all that the sample sees
    expected = score.argsort(descending=True, stable=True)[:30].sort().values
    assert torch.equal(top_k({"a": score}, 30).positions["a"], expected)


def test_the_estimated_threshold_is_exceeded_by_slightly_more_scores_than_are_chosen() -> None:
    score = torch.rand(10_000)
    threshold = selection.estimated_threshold({"a": score}, 100, 10_000)
    exceeding = sum(int((key >= threshold).sum()) for _, key in selection.sortable_chunks(score))
    assert 100 <= exceeding < 200


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_that_are_not_finite_are_named(bad: float, dtype: torch.dtype) -> None:
    broken = torch.ones(3, 4, dtype=dtype)
    broken[1, 2] = bad
    with pytest.raises(ValueError, match=rf"the score of 'second' at flat position 6 is {bad}; scores must be finite"):
        top_k({"first": torch.ones(2), "second": broken}, 2)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_a_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"k={k} entries cannot be chosen from 5 scores; choose 1 to 5"):
        top_k({"a": torch.ones(5)}, k)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_random_positions_are_distinct_in_range_and_repeatable(sizes: list[int], seed: int, data: Any) -> None:
    named = {str(index): size for index, size in enumerate(sizes)}
    k = data.draw(st.integers(1, sum(sizes)))
    positions = random_positions(named, k, torch.Generator().manual_seed(seed))
    assert sum(len(found) for found in positions.values()) == k
    for name, found in positions.items():
        assert found.tolist() == sorted(set(found.tolist()))
        assert all(0 <= position < named[name] for position in found.tolist())
    again = random_positions(named, k, torch.Generator().manual_seed(seed))
    assert all(torch.equal(again[name], found) for name, found in positions.items())


@pytest.mark.parametrize("k", [1, 3, 5, 6, 9])
def test_random_integers_are_uniform(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(10)
    rounds = 2000
    for _ in range(rounds):
        counts[distinct_integers(10, k, generator)] += 1
    deviation = (counts / rounds - k / 10).abs().max()
    assert deviation < 5 * math.sqrt(k / 10 * (1 - k / 10) / rounds)


def test_k_is_never_zero() -> None:
    assert num_active(1.0, 7) == 7
    assert num_active(0.5, 7) == 3
    with pytest.raises(ValueError, match=r"density=0\.1 of 7 targeted parameters .* at least 0\.14, or target more"):
        num_active(0.1, 7)
