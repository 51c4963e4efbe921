"""Pictures of cost against the model's size and against density."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..report.content import Picture
from ..report.style import FONT, Look, draw, looks
from .clock import Spread, ratios
from .settings import PATTERNS
from .spec import Spec
from .targets import Results, measured_sizes

DASHES: dict[str, Any] = {
    "": "-",
    "uniform": "-",
    "clustered": (0, (5, 1.5)),
    "real": (0, (1.5, 1.2)),
    "rows": (0, (6, 1.5, 1.5, 1.5)),
}
MARKERS = {"shira": "D", "supertuning": "s", "masked": "h"}


def make_pictures(results: Results) -> list[Picture]:
    pictures = []
    if "steps" in results and density_lines(results["steps"]["contestants"]):
        pictures.append(by_density(results["steps"]))
    if "scale" in results:
        pictures += by_size(results["scale"])
    return pictures


def density_lines(contestants: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Per pattern the densities and the cost of a step, relative to the floor; nothing without one."""
    floor = contestants.get("frozen", {"seconds": []})["seconds"]
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, record in contestants.items():
        spec = Spec.parse(name)
        if spec.method == "fishdip" and record["seconds"] and floor:
            value = Spread.of(ratios(record["seconds"], floor)).median
            lines.setdefault(spec.pattern, []).append((spec.density, value))
    return {pattern: sorted(lines[pattern]) for pattern in PATTERNS if pattern in lines}


def by_density(part: Mapping[str, Any]) -> Picture:
    """Fish-Dip's steps by density; peers as marks at theirs, those without one as level lines."""
    contestants = part["contestants"]
    floor = contestants["frozen"]["seconds"]
    look = looks_of(contestants)

    def paint(axes: Axes) -> None:
        for pattern, points in density_lines(contestants).items():
            style: Any = {"color": look["fishdip"].colour, "linestyle": DASHES[pattern], "marker": "o", "markersize": 4}
            axes.plot(*zip(*points, strict=True), label=f"Fish-Dip, {pattern}", linewidth=1.4, **style)
        for name, record in contestants.items():
            spec = Spec.parse(name)
            if spec.method == "fishdip" or not record["seconds"]:
                continue
            value = Spread.of(ratios(record["seconds"], floor)).median
            own = look[spec.method]
            if spec.density:
                axes.plot(
                    [spec.density], [value], MARKERS[spec.method], color=own.colour, label=spec.method, markersize=6
                )
            else:
                axes.axhline(value, color=own.colour, linestyle=own.dashes, linewidth=1.2, label=spec.method)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        ticks = sorted({Spec.parse(name).density for name in contestants} - {0.0})
        axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("density")
        axes.set_ylabel("time of a step, to frozen")
        legend(axes)

    return draw(
        "step-by-density", f"Cost of a step by density\n{part['parameters'] / 1e6:.3g} M parameters", 3.0, paint
    )


def looks_of(names: Mapping[str, Any]) -> dict[str, Look]:
    return looks([*{Spec.parse(name).method for name in names}, "fishdip"])


def by_size(part: Mapping[str, Any]) -> list[Picture]:
    """One picture per dtype that was measured."""
    pictures = []
    for dtype in sorted({size["dtype"] for size in measured_sizes(part)}):
        sizes = sorted(
            (size for size in measured_sizes(part) if size["dtype"] == dtype), key=lambda size: size["parameters"]
        )
        pictures.append(size_picture(sizes, dtype))
    return pictures


def size_picture(sizes: list[dict[str, Any]], dtype: str) -> Picture:
    names = list(dict.fromkeys(name for size in sizes for name in size["steps"]["contestants"]))
    look = looks_of(dict.fromkeys(names))

    def paint(axes: Axes) -> None:
        for name in names:
            points = []
            for size in sizes:
                seconds = size["steps"]["contestants"].get(name, {"seconds": []})["seconds"]
                if seconds:
                    points.append((size["parameters"], Spread.of(seconds).median))
            if points:
                spec = Spec.parse(name)
                own = look[spec.method]
                style: Any = {"color": own.colour, "linestyle": DASHES[spec.pattern], "marker": own.marker}
                axes.plot(*zip(*points, strict=True), label=f"step, {name}", linewidth=1.4, markersize=4, **style)
        updates = [(size["parameters"], Spread.of(size["update"]["update_seconds"]).median) for size in sizes]
        style = {"color": look["fishdip"].colour, "linestyle": (0, (1.5, 1.2)), "marker": "D", "markersize": 4}
        axes.plot(*zip(*updates, strict=True), label=f"update, {sizes[0]['update']['examples']} examples", **style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count / 1e6:g} M"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("parameters")
        axes.set_ylabel("seconds")
        legend(axes)

    return draw(f"cost-by-size-{dtype}", f"Cost by size of the model, {dtype}", 3.8, paint)


def legend(axes: Axes) -> None:
    """Below the axes, in two columns."""
    axes.figure.legend(loc="outside lower center", ncols=2, fontsize=FONT - 1)
