"""Positions as the gaps between them, in about one byte each at a density of 1 %: the code of Rice and Plaunt (1971).

The bytes of the gaps of a tensor: k; then k runs of bits: the lowest bit of every gap, the next one, and so on; then a
run with as many zero bits for every gap as `gap >> k` says, and a one bit. Each run fills whole bytes, from their least
significant bit on. k is chosen per tensor: many short gaps take few bits, and the long ones between them, of which
there is only room for few, hardly any more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST_LOW_BITS = 48
"""Largest k; no tensor has 2**48 entries."""


def encode(positions: Tensor, num_active: int, mark: int = 0) -> Tensor:
    """The code of positions, integers (n,), of which the first `num_active` ascend, and the others do: uint8, on the
    CPU, (0,) if there is none. `mark` is added to k in its first byte."""
    count = positions.numel()
    if not count:
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    steps = np.diff(positions.detach().cpu().to(torch.int64).numpy(), prepend=-1)
    if 0 < num_active < count:
        steps[num_active] = int(positions[num_active]) + 1  # the inactive ones begin anew
    gaps = steps - 1
    k = num_low_bits(gaps)
    ends = np.cumsum((gaps >> k) + 1) - 1
    high = np.zeros(int(ends[-1]) + 1, dtype=np.uint8)
    high[ends] = 1
    low = [(gaps >> first).astype(np.uint8) for first in range(0, k, 8)]
    runs = [low[bit // 8] & np.uint8(1 << bit % 8) for bit in range(k)]
    parts = [np.array([k + mark], dtype=np.uint8), *(np.packbits(bits, bitorder="little") for bits in (*runs, high))]
    return torch.from_numpy(np.concatenate(parts))


def decode(code: Tensor, count: int, num_active: int, numel: int) -> Tensor:
    """The positions of a code: int64 (count,) on the CPU, all in a tensor of `numel` entries.

    Raises:
        ValueError: these bytes are not the code of so many positions there.
    """
    if not 0 <= num_active <= count:
        raise ValueError(f"{num_active} of {count} positions cannot be active")
    data = code.detach().cpu().numpy()
    if not count and not data.size:
        return torch.empty(0, dtype=torch.int64, device="cpu")
    k = int(data[0]) if data.size else 0
    size = -(-count // 8)  # bytes of one run of low bits
    start = 1 + k * size
    if not count or k > MOST_LOW_BITS or data.size <= start:
        raise ValueError(f"its {data.size} bytes, the first of which is {k}, cannot be the gaps of {count} positions")
    ends = np.flatnonzero(np.unpackbits(data[start:], bitorder="little"))
    if ends.size != count or ends[-1] < 8 * (data.size - start - 1):
        raise ValueError(f"its {data.size} bytes are the gaps of {ends.size} positions, not of {count}")
    steps = np.diff(ends, prepend=-1)
    if int(steps.max()) - 1 > numel >> k:
        raise ValueError(f"one of its gaps is longer than the parameter's {numel} entries")
    steps = ((steps - 1) << k) + 1
    for first in range(0, k, 8):
        low = np.zeros(count, dtype=np.uint8)
        for bit in range(first, min(first + 8, k)):
            run = np.unpackbits(data[1 + bit * size :], count=count, bitorder="little")
            low |= run << np.uint8(bit - first)
        steps += low.astype(np.int64) << first
    positions = np.cumsum(steps) - 1
    if 0 < num_active < count:
        positions[num_active:] -= positions[num_active - 1] + 1
    last = int(max(positions[-1], positions[num_active - 1]))
    if not 0 <= last < numel:
        raise ValueError(f"its position {last} is outside of the parameter's {numel} entries")
    return torch.from_numpy(positions)


def num_low_bits(gaps: Any) -> int:
    """The k for which the code of gaps, int64 (n,), is shortest.

    The high parts of all gaps sum to S(k) with S(k - 1) >= 2 S(k) and n (mean / 2**k - 1) < S(k) <= n mean / 2**k. So
    for m = floor(log2(mean)), S(m - 1) > n and S(m + 1) < n: a smaller k than m - 1 saves n bits and adds more than
    that, and a larger one than m + 1 adds n bits and saves less.
    """
    middle = max(1, int(gaps.mean())).bit_length() - 1
    return min(range(max(0, middle - 1), middle + 2), key=lambda k: gaps.size * k + int((gaps >> k).sum()))
