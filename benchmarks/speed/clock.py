"""Seconds on any device, and what many of them say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """How long `work` takes, the device's part included."""
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


@dataclass(frozen=True)
class Spread:
    """Some numbers, in five."""

    low: float
    quarter: float
    median: float
    three_quarters: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        quarters = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return cls(min(values), quarters[0], median(values), quarters[2], max(values), len(values))


def shown(value: float, digits: int = 3) -> str:
    """A number with so many digits that tell, and no power of ten up to a million."""
    return f"{value:,.0f}" if 10**digits <= abs(value) < 1e6 else f"{value:.{digits}g}"


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Round by round: what was measured at the same time is compared."""
    return [value / other for value, other in zip(values, others, strict=True)]
