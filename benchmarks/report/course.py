"""Pictures of training step by step: the loss and the mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .content import Gallery, Picture
from .pictures import Looks, end_labels, heading, names
from .rows import Result, Row, Setting, settings_of, train_config
from .style import FONT, draw, draw_figure, kind, short, slug

LAYERS = {
    "attention": "#0072B2",
    "feed_forward": "#E69F00",
    "embedding": "#009E73",
    "norm": "#CC79A7",
    "relative_bias": "#D55E00",
}
OTHER_LAYER = "#8A8A8A"


def loss_gallery(rows: Sequence[Row], looks: Looks) -> Gallery:
    """The methods with a mask, against LoRA and full fine-tuning."""
    pictures = []
    for setting in settings_of(rows):
        masked = with_updates(rows, setting)
        own = [row for row in rows if row.setting == setting and row.successes]
        beside = [row for row in own if row not in masked and is_baseline(row.method)]
        curves = {row.method: loss_points(row.successes[0]) for row in (*masked, *beside)}
        if masked and any(curves[row.method] for row in masked):
            pictures.append(losses(setting, {m: p for m, p in curves.items() if p}, masked, looks))
    reading = (
        "Training loss by step (logarithmic), of each method's first seed: methods with a mask, beside LoRA "
        "and full fine-tuning. Dotted lines: mask updates. Where episodes follow, this is the meta-training before "
        "them."
    )
    return Gallery("Training loss", reading, tuple(pictures))


def is_baseline(method: str) -> bool:
    """Whether it is full fine-tuning or LoRA."""
    return kind(method).words == ("full",) or method.split("/")[0].lower() == "lora"


def with_updates(rows: Sequence[Row], setting: Setting, least: int = 1) -> list[Row]:
    own = [row for row in rows if row.setting == setting and row.successes]
    return [row for row in own if len(updates(row)) >= least]


def updates(row: Row) -> list[dict[str, Any]]:
    """Of the first seed that succeeded."""
    return row.successes[0]["train_info"]["mask_updates"] or []


def end_of_first_fit(run: Result) -> float:
    """The step at which meta-training ended and the first episode began; infinite where there are no episodes."""
    return [*run["train_info"]["fit_begins"], math.inf, math.inf][1]


def loss_points(run: Result) -> list[tuple[float, float]]:
    """Step and loss, of the first fit."""
    points = [(line["step"], line.get("train loss")) for line in run["train_info"]["metrics"][:-1]]
    last = end_of_first_fit(run)
    return [(step, loss) for step, loss in points if step <= last and loss and math.isfinite(loss) and loss > 0]


def first_fit_updates(row: Row) -> list[int]:
    """Steps of the mask updates before any episode."""
    last = end_of_first_fit(row.successes[0])
    return [update["step"] for update in updates(row) if update["step"] < last]


def losses(
    setting: Setting, curves: dict[str, list[tuple[float, float]]], masked: Sequence[Row], looks: Looks
) -> Picture:
    height = max(2.8, 1.2 + 0.155 * len(curves))

    def paint(axes: Axes) -> None:
        axes.grid(visible=False, axis="x")
        for step in sorted({step for row in masked for step in first_fit_updates(row)}):
            axes.axvline(step, color="#808080", linewidth=0.8, linestyle=":", zorder=0)
        ends = []
        for method, points in curves.items():
            steps, values = zip(*points, strict=True)
            look = looks[method]
            axes.plot(steps, values, color=look.colour, linestyle=look.dashes, marker=".", markersize=3, linewidth=1.2)
            ends.append((method, steps[-1], values[-1], look))
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        end_labels(axes, ends, height)

    return draw(slug("loss", *names(setting)), heading(setting), height, paint)


def overlap_gallery(rows: Sequence[Row], looks: Looks) -> Gallery:
    pictures = []
    for setting in settings_of(rows):
        masked = with_updates(rows, setting, least=2)
        if masked:
            pictures.append(overlaps(setting, masked, looks))
    reading = (
        "How much of a mask was in the mask before it, by step, for each method's first seed. 100\u00a0%: an update "
        "changed nothing. The first update is compared with the mask that the adapter began with."
    )
    return Gallery("Mask overlap", reading, tuple(pictures))


def overlaps(setting: Setting, rows: Sequence[Row], looks: Looks) -> Picture:
    height = max(2.6, 1.2 + 0.155 * len(rows))

    def paint(axes: Axes) -> None:
        ends = []
        for row in rows:
            steps = [update["step"] for update in updates(row)]
            values = [100 * update["mask_overlap"] for update in updates(row)]
            look = looks[row.method]
            axes.plot(
                steps, values, color=look.colour, linestyle=look.dashes, marker=look.marker, markersize=3, linewidth=1.3
            )
            ends.append((row.method, steps[-1], values[-1], look))
        axes.set_ylim(0, 105)
        axes.set_xlabel("step")
        axes.set_ylabel("overlap, %")
        end_labels(axes, ends, height)

    return draw(slug("overlap", *names(setting)), heading(setting), height, paint)


def layer_gallery(rows: Sequence[Row]) -> Gallery:
    pictures = []
    for setting in settings_of(rows):
        masked = [row for row in with_updates(rows, setting) if any(update.get("shares") for update in updates(row))]
        if masked:
            pictures.append(layers(setting, masked))
    reading = (
        "Which layers hold the trainable entries, by step, for each method's first seed: the height of a colour is "
        "that layer type's share of the mask. Steps are where the mask was updated."
    )
    return Gallery("Where the mask lies", reading, tuple(pictures))


def layers(setting: Setting, rows: Sequence[Row]) -> Picture:
    """A panel per method in two columns, with one legend."""
    types = list(LAYERS)
    for row in rows:
        types += [name for update in updates(row) for name in update.get("shares", {}) if name not in types]
    shown = [
        name for name in types if any(update.get("shares", {}).get(name) for row in rows for update in updates(row))
    ]
    columns = min(2, len(rows))
    lines = math.ceil(len(rows) / columns)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(rows) :]:
            axes.set_axis_off()
        for axes, row in zip(grid.flat, rows, strict=False):
            own = [update for update in updates(row) if update.get("shares")]
            end = max(row.successes[0]["train_info"].get("stopped_at") or 0, train_config(row.runs[0])["steps"])
            steps = [update["step"] for update in own] + [end]
            values = [[100 * update["shares"].get(name, 0.0) for update in (*own, own[-1])] for name in shown]
            colours = [LAYERS.get(name, OTHER_LAYER) for name in shown]
            axes.stackplot(steps, *values, colors=colours, step="post", alpha=0.85, linewidth=0)
            axes.set_title(short(row.method), pad=3)
            axes.set_ylim(0, 100)
            axes.set_xlim(0, end)
            axes.set_yticks([0, 50, 100], ["0 %", "50 %", "100 %"])
        for axes in grid[-1]:
            axes.set_xlabel("step")
        handles = grid[0, 0].collections[: len(shown)]
        titles = [name.replace("_", " ") for name in shown]
        figure.legend(handles, titles, loc="outside lower left", ncols=3, fontsize=FONT, handlelength=1.2)

    return draw_figure(slug("layers", *names(setting)), heading(setting), 1.2 + 1.15 * lines, paint)
