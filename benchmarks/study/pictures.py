"""Pictures of the study: the score by the number of examples, and by the size of what is saved."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..report.content import Picture
from ..report.style import FONT, Look, draw, looks
from .cells import NAMES
from .summary import Summary

AXIS = "entity F1, mean of the data sets, %"


def score_by_examples(found: Sequence[Summary]) -> Picture:
    """Of the model and data sets with the most cells."""
    kinds = [(summary.cell.model, summary.data_sets) for summary in found]
    model, names = max(kinds, key=kinds.count)
    own = sorted(
        (x for x in found if (x.cell.model, x.data_sets) == (model, names)), key=lambda summary: summary.cell.num_train
    )
    style = style_of(own)

    def paint(axes: Axes) -> None:
        methods = list(dict.fromkeys(method for summary in own for method in summary.methods))
        for i, method in enumerate(methods):
            here = [summary for summary in own if method in summary.methods]
            shift = 1.03 ** (i - (len(methods) - 1) / 2)  # so that bars stand side by side
            places = [shift * summary.cell.num_train for summary in here]
            look = style[method]
            scores = [summary.score(method) for summary in here]
            axes.plot(places, scores, color=look.colour, linestyle=look.dashes, linewidth=1.4)
            axes.plot(places, scores, look.marker, color=look.colour, markersize=4, label=NAMES[method])
            for place, summary in zip(places, here, strict=True):
                interval = summary.interval(method)
                axes.plot([place, place], [interval.low, interval.high], color=look.colour, linewidth=2, alpha=0.3)
        axes.set_xscale("log")
        ticks = [summary.cell.num_train for summary in own]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("labelled training sentences")
        axes.set_ylabel(AXIS)
        axes.figure.legend(loc="outside lower center", ncols=2, fontsize=FONT - 1)

    return draw("score-by-examples", f"{model}: score by the number of sentences, with 95 % intervals", 3.6, paint)


def score_by_size(found: Sequence[Summary]) -> Picture:
    """In the cell with the most methods."""
    summary = max(found, key=lambda summary: len(summary.methods))
    style = style_of([summary])

    def paint(axes: Axes) -> None:
        for method in summary.methods:
            size = summary.mean(method, lambda row: row.figures("file_size")) / 2**20
            interval, look = summary.interval(method), style[method]
            axes.plot([size], [interval.value], look.marker, color=look.colour, markersize=6, label=NAMES[method])
            axes.plot([size, size], [interval.low, interval.high], color=look.colour, linewidth=2, alpha=0.3)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("MiB of what is saved")
        axes.set_ylabel(AXIS)
        axes.figure.legend(loc="outside lower center", ncols=2, fontsize=FONT - 1)

    heading = f"{summary.cell.model}, {summary.cell.num_train} sentences: score by size on disk"
    return draw("score-by-size", heading, 3.6, paint)


def style_of(found: Sequence[Summary]) -> dict[str, Look]:
    return looks(method for summary in found for method in summary.methods)
