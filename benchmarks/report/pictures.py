"""Pictures of the scores and of what they cost: one per setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter

from .content import Gallery, Picture
from .intervals import score_interval
from .labels import distance, overlap, place, spread
from .rows import Row, Setting, settings_of
from .same_runs import same_notes
from .style import FONT, INK, Look, draw, short, slug
from .tables import metric_title

Looks = dict[str, Look]
WHITE = "#FFFFFF"
LEAST_SPAN = 5.0
"""Points from one end of an axis of scores to the other, at least."""
LEADER = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3}


def score_gallery(rows: Sequence[Row], looks: Looks) -> Gallery:
    """By share of the training set where there are several, else the seeds of each method."""
    pictures = []
    for setting, metric, own in panels(rows):
        group = [row for row in rows if row.setting.group == setting.group and row.scores(metric)]
        fractions = {row.setting.fraction for row in group} - {None}
        if len(fractions) < 2 or setting.fraction is None:
            pictures.append(dots(setting, metric, own, looks))
        elif setting.fraction == max(fraction for fraction in fractions if fraction is not None):
            pictures.append(lines(setting, metric, [row for row in group if row.setting.fraction is not None], looks))
    reading = (
        "Further right is better. Small dots: one seed each. Large mark: their mean." + bar_meaning(rows)
        if not any(picture.name.startswith("fraction") for picture in pictures)
        else "Where a data set has several training fractions: score (up is better) by fraction, mean over seeds, each "
        "line with its method beside it. Else: one line per method, further right is better; small dots are seeds, the "
        "large mark is their mean." + bar_meaning(rows)
    )
    reading = " ".join((reading, *same_notes(rows)))
    return Gallery("Scores of all methods", reading, tuple(pictures))


def bar_meaning(rows: Sequence[Row]) -> str:
    """What the bars of scores mean."""
    with_interval = [bool(row.draws) for row in rows if row.successes]
    if not any(with_interval):
        return " The bar spans the seeds."
    return " The bar is the 95 % interval" + ("." if all(with_interval) else "; without one, it spans the seeds.")


def panels(rows: Sequence[Row]) -> list[tuple[Setting, str, list[Row]]]:
    """What there is a score of: setting, metric, and the rows, best first."""
    result = []
    for setting in settings_of(rows):
        for metric in setting.metrics:
            own = [row for row in rows if row.setting == setting and row.scores(metric)]
            own.sort(key=lambda row: (-mean(row.scores(metric)), row.method))
            if own:
                result.append((setting, metric, own))
    return result


def dots(setting: Setting, metric: str, rows: Sequence[Row], looks: Looks) -> Picture:
    def paint(axes: Axes) -> None:
        for y, row in enumerate(rows):
            scores, look = row.scores(metric), looks[row.method]
            ends = bar_ends(row, metric) or (min(scores), max(scores))
            axes.plot(ends, [y, y], color=look.colour, linewidth=2.5, alpha=0.4)
            axes.plot(scores, [y] * len(scores), ".", color=look.colour, markersize=5, alpha=0.7)
            axes.plot([mean(scores)], [y], look.marker, color=look.colour, markersize=6.5)
        method_axis(axes, rows)
        score_axis(axes, "x")
        axes.set_xlabel(f"{metric_title(metric)}, %")

    name = slug("score", *names(setting), metric)
    return draw(name, heading(setting, metric), row_height(rows), paint)


def lines(setting: Setting, metric: str, rows: Sequence[Row], looks: Looks) -> Picture:
    methods = sorted({row.method for row in rows})
    height = max(3.0, 1.2 + 0.155 * len(methods))
    title = f"{setting.data_title}{f', {setting.model}' if setting.several_models else ''}\n{metric_title(metric)}"

    def paint(axes: Axes) -> None:
        ends = []
        for method in methods:
            own = [row for row in rows if row.method == method]
            fractions = [100 * (row.setting.fraction or 0) for row in own]
            means = [mean(row.scores(metric)) for row in own]
            look = looks[method]
            axes.plot(
                fractions,
                means,
                color=look.colour,
                linestyle=look.dashes,
                marker=look.marker,
                markersize=4,
                linewidth=1.4,
            )
            for row, x in zip(own, fractions, strict=True):
                error_bar(axes, row, metric, x, look)
            ends.append((method, fractions[-1], means[-1], look))
        ticks = sorted({100 * (row.setting.fraction or 0) for row in rows})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("of the training examples")
        axes.set_ylabel(f"{metric_title(metric)}, %")
        score_axis(axes, "y")
        end_labels(axes, ends, height)

    name = slug("fraction", setting.dataset, setting.model if setting.several_models else "", metric)
    return draw(name, title, height, paint)


def score_axis(axes: Axes, which: str, margin: float = 0.03) -> None:
    """Limit an axis to the percents that there are, and to no less than a few of them where all scores are the same.

    Args:
        margin: room beyond 0 and 100, as a share of the axis, so that marks on these are whole.
    """
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    if high - low < LEAST_SPAN:
        low, high = (low + high - LEAST_SPAN) / 2, (low + high + LEAST_SPAN) / 2
    if low < 0:
        low, high = 0.0, max(high, LEAST_SPAN)
    if high > 100:
        low, high = min(low, 100 - LEAST_SPAN), 100.0
    room = margin * (high - low)
    ends = (low - room * (low == 0), high + room * (high == 100))
    (axes.set_xlim if which == "x" else axes.set_ylim)(*ends)


def bar_ends(row: Row, metric: str) -> tuple[float, float] | None:
    """Those of the interval, if there is one."""
    found = score_interval(row, metric)
    return None if found is None else (found.low, found.high)


def error_bar(axes: Axes, row: Row, metric: str, x: float, look: Look) -> None:
    """The interval as an upright line, if there is one."""
    if ends := bar_ends(row, metric):
        axes.plot([x, x], ends, color=look.colour, linewidth=2.5, alpha=0.3, solid_capstyle="butt")


def end_labels(axes: Axes, ends: Sequence[tuple[str, float, float, Look]], height: float) -> None:
    """Names at the right of the axes, each joined to the end of its line."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    low, high = axes.get_ylim()
    to_share = axes.transData + axes.transAxes.inverted()
    shares = [float(to_share.transform((x, y))[1]) for _, x, y, _ in ends]
    gap = 1.25 * FONT / 72 / (height - 0.9)
    for (method, x, y, look), share in zip(ends, spread(shares, gap, 0.0, 1.0), strict=True):
        axes.annotate(
            short(method),
            xy=(x, y),
            xytext=(1.07, share),
            textcoords="axes fraction",
            va="center",
            fontsize=FONT - 1,
            arrowprops={**LEADER, "color": look.colour, "relpos": (0, 0.5)},
        )
    axes.set_ylim(low, high)


def size_gallery(rows: Sequence[Row], looks: Looks) -> Gallery:
    """Score by trainable parameters."""
    pictures = []
    for setting, metric, own in panels(rows):
        trained = [row for row in own if row.num_trainable]
        if metric == setting.metrics[0] and len({row.num_trainable for row in trained}) > 1:
            pictures.append(by_size(setting, metric, trained, looks))
    reading = (
        "Up and to the left is better: a higher mean score with fewer trainable parameters (logarithmic axis). "
        "Methods that train no parameter are left out."
    )
    if any(row.draws for row in rows):
        reading += " Bars: 95 % intervals of the score."
    return Gallery("Score by trainable parameters", reading, tuple(pictures))


def by_size(setting: Setting, metric: str, rows: Sequence[Row], looks: Looks) -> Picture:
    """Names beside the points; where there is no room for them, numbers, and a key below."""
    name, title = slug("size", *names(setting), metric), heading(setting, metric)
    fits = True

    def paint(axes: Axes) -> None:
        nonlocal fits
        points = size_points(axes, metric, rows, looks)
        fits = label_points(axes, points, [short(row.method) for row in rows])

    def paint_numbers(axes: Axes) -> None:
        columns = 1 if max(len(short(row.method)) for row in rows) > 22 else 2
        marks = [
            Line2D([], [], linestyle="", marker=look.marker, color=look.colour, label=f"{number} {short(row.method)}")
            for number, row in enumerate(rows, 1)
            for look in [looks[row.method]]
        ]
        axes.figure.legend(
            handles=marks, loc="outside lower left", ncols=columns, fontsize=FONT - 1, labelspacing=0.3, handlelength=1
        )
        points = size_points(axes, metric, rows, looks)
        label_points(axes, points, [str(number) for number in range(1, len(rows) + 1)])

    picture = draw(name, title, 3.6, paint)
    return picture if fits else draw(name, title, 3.7 + 0.145 * len(rows), paint_numbers)


def size_points(axes: Axes, metric: str, rows: Sequence[Row], looks: Looks) -> list[tuple[float, float]]:
    """Draw a mark for each row; returns where they are, as parameters and percent."""
    axes.set_xscale("log")
    axes.margins(0.12, 0.15)
    points = [(row.num_trainable, mean(row.scores(metric))) for row in rows]
    for row, (x, y) in zip(rows, points, strict=True):
        look = looks[row.method]
        axes.plot([x], [y], look.marker, color=look.colour, markersize=6)
        error_bar(axes, row, metric, x, look)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: short_count(count)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("trainable parameters")
    axes.set_ylabel(f"{metric_title(metric)}, %")
    score_axis(axes, "y", margin=0.12)
    return points


def label_points(axes: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str]) -> bool:
    """Write a label beside each point; returns whether all of them are free of one another and of the points."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    size = FONT - 1
    scale = 72 / axes.figure.dpi
    pixels = [(scale * float(x), scale * float(y)) for x, y in axes.transData.transform(points)]
    frame = axes.get_window_extent()
    boxes = place(
        pixels,
        [(0.6 * size * len(label), 1.1 * size) for label in labels],
        (scale * frame.x0, scale * frame.y0, scale * frame.x1, scale * frame.y1),
    )
    for label, point, pixel, box in zip(labels, points, pixels, boxes, strict=True):
        centre = ((box[0] + box[2]) / 2 - pixel[0], (box[1] + box[3]) / 2 - pixel[1])
        leader = {**LEADER, "color": INK, "alpha": 0.6} if distance(pixel, box) > 7 else None
        axes.annotate(
            label,
            xy=point,
            xytext=centre,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            arrowprops=leader,
        )
    return all(overlap(one, other) == 0 for one, other in combinations(boxes, 2)) and not any(
        distance(pixel, box) < 2 for pixel in pixels for box in boxes
    )


def short_count(count: float) -> str:
    """1.5k, 20M, 3B."""
    return str(EngFormatter(sep="")(count)).replace("G", "B")


def time_gallery(rows: Sequence[Row], looks: Looks) -> Gallery:
    def paint(axes: Axes, rows: Sequence[Row]) -> None:
        bars(axes, rows, "train_time", 1, looks)
        updates = [mean(row.figures("mask_update_time")) for row in rows]
        axes.barh(range(len(rows)), updates, height=0.62, color="none", edgecolor=WHITE, hatch="//////", linewidth=0)
        axes.set_xlabel("seconds of training")

    reading = "Shorter is better: seconds of training, mean over seeds (dots: single seeds). Hatched: mask updates."
    return cost_gallery(rows, "Training time", reading, "time", paint)


def memory_gallery(rows: Sequence[Row], looks: Looks) -> Gallery:
    def paint(axes: Axes, rows: Sequence[Row]) -> None:
        bars(axes, rows, "accelerator_memory_max", 2**20, looks)
        axes.set_xlabel("MiB at the peak")

    reading = "Shorter is better: peak memory of training and evaluation, mean over seeds (dots: single seeds)."
    return cost_gallery(rows, "Peak memory", reading, "memory", paint)


def cost_gallery(rows: Sequence[Row], title: str, reading: str, name: str, paint: Callable[..., None]) -> Gallery:
    pictures = []
    for setting in settings_of(rows):
        own = [row for row in rows if row.setting == setting and row.successes]
        own.sort(key=lambda row: row.method)
        if own:
            painted = partial(paint, rows=own)
            pictures.append(draw(slug(name, *names(setting)), heading(setting), row_height(own), painted))
    return Gallery(title, reading, tuple(pictures))


def bars(axes: Axes, rows: Sequence[Row], figure: str, unit: float, looks: Looks) -> None:
    for y, row in enumerate(rows):
        values = [value / unit for value in row.figures(figure)]
        axes.barh(y, mean(values), height=0.62, color=looks[row.method].colour, alpha=0.85)
        axes.plot(
            values, [y] * len(values), "o", color=WHITE, markeredgecolor="#444444", markeredgewidth=0.7, markersize=3
        )
    method_axis(axes, rows)
    axes.set_xlim(0, None if any(any(row.figures(figure)) for row in rows) else 1)


def method_axis(axes: Axes, rows: Sequence[Row]) -> None:
    """Methods from top to bottom."""
    axes.locator_params(axis="x", nbins=6)
    axes.set_yticks(range(len(rows)), [short(row.method) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)


def row_height(rows: Sequence[Row]) -> float:
    return 1.0 + 0.19 * len(rows)


def names(setting: Setting) -> tuple[str, ...]:
    """For a file's name."""
    return setting.dataset, setting.protocol, setting.model if setting.several_models else ""


def heading(setting: Setting, metric: str | None = None) -> str:
    measured = f": {metric_title(metric)}" if metric else ""
    return f"{setting.data_title}{measured}\n{setting.subtitle}"
