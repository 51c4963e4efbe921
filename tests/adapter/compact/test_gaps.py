"""The code of positions, against an encoder and a decoder that go bit by bit."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from peft_fishdip.adapter.gaps import decode, encode

LENGTHS = [0, 1, 254, 255, 256, 65_534, 65_535, 65_536, 65_537, 2**31 - 1, 2**31, 2**33]


def bits_of(data: list[int]) -> list[int]:
    return [byte >> at & 1 for byte in data for at in range(8)]


def gaps_by_hand(code: Tensor, count: int) -> list[int]:
    """k, the bits of each rank of all gaps, and each gap's high part as zeros before a one."""
    k, *data = code.tolist()
    size = -(-count // 8)
    ranks = [bits_of(data[size * rank : size * (rank + 1)]) for rank in range(k)]
    high = bits_of(data[size * k :])
    gaps = []
    for entry in range(count):
        zeros = high.index(1)
        high = high[zeros + 1 :]
        gaps.append((zeros << k) + sum(ranks[rank][entry] << rank for rank in range(k)))
    assert not any(high)
    assert len(high) < 8
    return gaps


def code_by_hand(gaps: list[int], k: int) -> Tensor:
    runs = [[gap >> rank & 1 for gap in gaps] for rank in range(k)]
    runs.append([bit for gap in gaps for bit in [0] * (gap >> k) + [1]])
    data = [k]
    for run in runs:
        data += [sum(bit << at for at, bit in enumerate(run[start : start + 8])) for start in range(0, len(run), 8)]
    return torch.tensor(data, dtype=torch.uint8)


def positions_of(active: list[int], inactive: list[int]) -> Tensor:
    runs = [[end - 1 for end in accumulate(gap + 1 for gap in run)] for run in (active, inactive)]
    return torch.tensor(runs[0] + runs[1], dtype=torch.int64)


GAPS = st.lists(st.one_of(st.integers(0, 9), st.integers(0, 70_000), st.sampled_from(LENGTHS)), max_size=20)


@given(GAPS, GAPS)
def test_codes_are_read_back_and_are_those_of_the_format(active: list[int], inactive: list[int]) -> None:
    positions, gaps = positions_of(active, inactive), active + inactive
    code = encode(positions, len(active))
    assert code.dtype == torch.uint8
    numel = int(positions.max()) + 1 if gaps else 7
    assert torch.equal(decode(code, len(gaps), len(active), numel), positions)
    if gaps:
        assert gaps_by_hand(code, len(gaps)) == gaps
    for k in (0, 1, 7, 8, 9, 15, 16, 33):
        if gaps and sum(gap >> k for gap in gaps) < 2000:
            other = code_by_hand(gaps, k)
            assert torch.equal(decode(other, len(gaps), len(active), numel), positions)
            assert len(other) >= len(code) - 34  # the shortest, but for the ends of its runs


@pytest.mark.parametrize("gap", LENGTHS)
@pytest.mark.parametrize("others", [[], [0] * 9, [300] * 9])
def test_gaps_of_all_lengths(gap: int, others: list[int]) -> None:
    positions = positions_of([gap, *others], [*others, gap])
    num_active, numel = len(others) + 1, int(positions.max()) + 1
    code = encode(positions, num_active)
    assert torch.equal(decode(code, positions.numel(), num_active, numel), positions)
    assert len(code) < 36 + 5 * positions.numel()
    with pytest.raises(ValueError, match=rf"outside of the parameter's {numel - 1} entries|is longer than"):
        decode(code, positions.numel(), num_active, numel - 1)


def test_int32_positions_up_to_the_last_one() -> None:
    positions = torch.tensor([5, 2**31 - 1, 0, 2**31 - 1], dtype=torch.int32)
    assert torch.equal(decode(encode(positions, 2), 4, 2, 2**31), positions.long())


@pytest.mark.parametrize("num_active", [0, 1, 2000])
def test_any_number_of_active_entries(num_active: int) -> None:
    positions = torch.randperm(9000)[:2000]
    positions = torch.cat([positions[:num_active].sort().values, positions[num_active:].sort().values])
    code = encode(positions, num_active)
    assert torch.equal(decode(code, 2000, num_active, 9000), positions)
    assert int(encode(positions, num_active, mark=128)[0]) == int(code[0]) + 128


@pytest.mark.parametrize(
    ("density", "within", "most"),
    [(0.01, 1.0, 1.03), (0.01, 0.1, 1.06), (0.001, 1.0, 1.45), (0.1, 1.0, 0.62), (1.0, 1.0, 0.13)],
)
def test_positions_take_little_more_than_they_must(density: float, within: float, most: float) -> None:
    """Also where they are clustered: `within` a share of the rows."""
    rows, columns = 1000, 2000
    torch.manual_seed(0)
    chosen = (torch.rand(rows) < within).float()[:, None] * torch.rand(rows, columns)
    count = int(density * rows * columns)
    positions = chosen.flatten().topk(count).indices.sort().values
    assert encode(positions, count).numel() / count < most


@given(GAPS.filter(len), st.data())
def test_other_bytes_are_refused_or_are_positions_in_range(gaps: list[int], data: st.DataObject) -> None:
    positions = positions_of(gaps, [])
    numel = int(positions.max()) + 1
    code = bytearray(encode(positions, len(gaps)).tolist())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(code) - 1)))
        kind = data.draw(st.sampled_from(["byte", "cut", "insert"]))
        if kind == "byte" and code:
            code[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del code[at:]
        else:
            code[at:at] = data.draw(st.binary(max_size=3))
    count = data.draw(st.sampled_from([len(gaps), len(gaps) + 1, 0]))
    try:
        found = decode(torch.tensor(list(code), dtype=torch.uint8), count, count, numel)
    except ValueError:
        pass
    else:
        assert found.numel() == count
        assert found.tolist() == sorted(set(found.tolist()))
        assert not count or 0 <= int(found[0]) <= int(found[-1]) < numel
