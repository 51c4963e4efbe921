"""A reliability plot: how often answers are right, by the probability that the model gives them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from ..tasks.calibration import Calibration

ENDINGS = (".png", ".svg", ".pdf")
_BLUE, _GREY = "#0072B2", "#8A8A8A"


def check_plot(path: Path) -> None:
    """Refuse what `write_reliability` could not write, before anything is computed.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the name does not end with one of ENDINGS.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "a plot needs matplotlib: pip install matplotlib; the same figures are in what --json writes"
        ) from error
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path}: give a name that ends with {', '.join(ENDINGS)}")


def draw_reliability(axes: Any, calibration: Calibration) -> None:
    """Draw the bins into axes of matplotlib: a point for each, whose area grows with its number of answers.

    Points on the diagonal have as many right answers as the scores promise; below it, scores are too high.
    """
    bins = [each for each in calibration.bins if each.count]
    most = max((each.count for each in bins), default=1)
    x, y = [each.confidence for each in bins], [each.accuracy for each in bins]
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
    axes.plot(x, y, color=_BLUE, linewidth=1)
    axes.scatter(x, y, s=[12 + 100 * each.count / most for each in bins], color=_BLUE, alpha=0.75, linewidths=0)
    for each in bins:
        below = each.accuracy > 0.5
        axes.annotate(
            str(each.count),
            (each.confidence, each.accuracy),
            (0, -8 if below else 8),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
            fontsize="small",
        )
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="mean score", ylabel="share of right answers")


def write_reliability(path: Path, calibration: Calibration, title: str) -> None:
    """Write the plot as PNG, SVG or PDF, by the ending of the name; the file is complete, or not there.

    Raises:
        ImportError, ValueError: see `check_plot`.
        OSError: the file cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    axes = figure.subplots()
    draw_reliability(axes, calibration)
    error = f"expected calibration error {calibration.error:.2f}, {calibration.count} answers"
    axes.set_title(f"{title}\n{error}", loc="left", fontsize="medium", parse_math=False)
    draft = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        figure.savefig(draft, dpi=150)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
