"""Transposes are exact and contiguous, whatever the matrix."""

from __future__ import annotations

import pytest
import torch

from peft_fishdip import transpose
from peft_fishdip.transpose import transpose as transposed


@pytest.mark.parametrize("by_shuffle", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (0, 3), (3, 0), (3, 5), (16, 16), (65, 33), (129, 257)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_transpose_is_exact_and_contiguous(
    monkeypatch: pytest.MonkeyPatch, by_shuffle: bool, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(transpose, "BY_SHUFFLE", by_shuffle and transpose.BY_SHUFFLE)
    matrix = torch.arange(shape[0] * shape[1]).reshape(shape).to(dtype)
    result = transposed(matrix)
    assert result.is_contiguous()
    assert result.dtype == dtype
    assert torch.equal(result, matrix.t())


def test_the_transpose_of_a_part_or_of_a_transpose_is_exact() -> None:
    matrix = torch.randn(40, 30)
    for part in (matrix[:, 3:17], matrix[2:9], matrix[::2], matrix.t(), matrix[:1].expand(5, 30)):
        assert torch.equal(transposed(part), part.t())
        assert transposed(part).is_contiguous()
