"""Which learning rate a method gets: the one that does best on training examples that are held out for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from .problems import METRICS

RATES = (1e-3, 1e-2, 1e-1, 1.0)
"""What every method may choose from, where nothing else is asked for."""
LOW_RATES = (1e-5, 1e-4, 1e-3, 1e-2)
"""The same on causal LMs and encoders, which diverge at rates at which a T5 learns."""

ENOUGH = 20
"""From so many held-out examples on, the task's metrics count before the loss."""

Row = Mapping[str, Any]


def trial_row(rate: float, trial: Mapping[str, Any]) -> dict[str, Any]:
    """What a learning rate came to, from the result of its trial."""
    config, row = trial["run_info"]["train_config"], trial["train_info"]["metrics"][-1]
    return {
        "learning_rate": rate,
        "held_out": config["num_test_examples"],
        "scores": {name: row.get(f"test {name}") for name in METRICS[config["task"]]},
        "loss": row.get("test loss"),
        "error": trial["run_info"]["error_msg"],
    }


def best_rate(rows: Sequence[Row]) -> float:
    """The highest mean of the task's metrics counts, then the lowest loss; of few held-out examples the loss alone.

    Raises:
        ValueError: no rate led to a finite loss.
    """
    usable = [row for row in rows if not row["error"] and row["loss"] is not None]
    if not usable:
        fates = (f"{row['learning_rate']:g}: {row['error'] or 'the loss is not finite'}" for row in rows)
        raise ValueError(f"no learning rate led to a finite loss ({'; '.join(fates)})")
    return float(max(usable, key=merit)["learning_rate"])


def merit(row: Row) -> tuple[float, float]:
    """More is better."""
    return mean(row["scores"].values()) if row["held_out"] >= ENOUGH else 0.0, -row["loss"]
