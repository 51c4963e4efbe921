"""How things are measured: in rounds of turns in random order, and in processes of their own."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from torch.utils.benchmark import timer

from ..machine import prepare_process
from ..settings import SettingsError, one_line
from .settings import Settings


def seconds(work: Callable[[], Any]) -> float:
    """How long `work` takes, including what it leaves to the GPU."""
    started = timer()
    work()
    return float(timer() - started)


def in_turns(
    turns: Mapping[str, Callable[[], Any]], rounds: int, seed: int, failed: dict[str, str] | None = None
) -> tuple[dict[str, list[Any]], list[list[str]]]:
    """Rounds in which everything has one turn, in a new random order each time.

    Args:
        failed: where given, an error is recorded here, and what failed has no further turn; else errors are raised.

    Returns:
        what each turn returned, by name, and the order of each round.
    """
    results: dict[str, list[Any]] = {name: [] for name in turns}
    shuffle, orders = random.Random(seed).shuffle, []
    for _ in range(rounds):
        orders.append([name for name in turns if not failed or name not in failed])
        shuffle(orders[-1])
        for name in orders[-1]:
            try:
                results[name].append(turns[name]())
            except Exception as error:  # noqa: PERF203
                if failed is None or isinstance(error, SettingsError):
                    raise
                failed[name] = one_line(error)
    return results, orders


def in_child(task: Callable[..., dict[str, Any]], settings: Settings, *arguments: Any) -> dict[str, Any]:
    """What `task` returns in a new process, which has done nothing else; if it fails, {"error": one line}."""
    with ProcessPoolExecutor(1, get_context("spawn"), prepare_process, (settings.threads,)) as pool:
        try:
            return pool.submit(task, settings, *arguments).result()
        except Exception as error:  # also when the system has killed the process
            return {"error": one_line(error)}


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Round by round, so that values which were measured at about the same time are compared."""
    return [value / other for value, other in zip(values, others, strict=True)]
