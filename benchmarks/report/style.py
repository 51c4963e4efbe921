"""How pictures look, and how a drawing becomes an SVG that is the same for the same results."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter

from .content import Picture
from .rows import one_line

INK, PAPER = "#1c1e21", "#fdfefe"
"""Text and background; a page puts its own colours in their place."""
WIDTH = 4.1
FONT = 8.5
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.titlelocation": "left",
    "axes.labelsize": FONT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "ytick.left": False,
    "legend.frameon": False,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Kind:
    """A family of methods, and how it is drawn."""

    title: str
    colour: str
    marker: str
    words: tuple[str, ...]
    """One of these is part of the method's name."""


KINDS = (
    Kind("Fish-Dip", "#D55E00", "o", ("fishdip", "fish-dip")),
    Kind("full fine-tuning", INK, "s", ("full",)),
    Kind("other sparse masks", "#E69F00", "D", ("fish", "sparse", "shira", "super", "random", "sft", "magnitude")),
    Kind("low rank", "#0072B2", "^", ("lora", "dora", "pissa", "loha", "lokr", "vera", "oft")),
    Kind("bottleneck adapters", "#009E73", "v", ("bottleneck", "houlsby", "pfeiffer", "adapter", "compacter")),
    Kind("prompts and prefixes", "#CC79A7", "P", ("prefix", "prompt", "tuning-p", "p-tuning", "context")),
    Kind("scales, biases, norms", "#3FA0DB", "X", ("ia3", "bit", "beft", "norm", "ln", "bias")),
    Kind("others", "#8A8A8A", "h", ("",)),
)
"""Colours of Okabe and Ito, which the colour-blind can tell apart; the first kind that fits counts."""


@dataclass(frozen=True)
class Look:
    """Of one method: the colour and the marker of its kind, and dashes of its own."""

    colour: str
    marker: str
    dashes: Any


def kind(method: str) -> Kind:
    family = method.split("/")[0].lower()
    return next(kind for kind in KINDS if any(word in family for word in kind.words))


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """The same methods look the same in all pictures of a report."""
    dashes = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 3)))
    seen: dict[str, int] = {}
    result = {}
    for method in sorted(set(methods)):
        own = kind(method)
        number = seen[own.title] = seen.get(own.title, -1) + 1
        result[method] = Look(own.colour, own.marker, dashes[number % len(dashes)])
    return result


def short(method: str) -> str:
    """A method's name as a label; "full/adamw" stays, very long ones are cut."""
    return one_line(method, 30)


def slug(*parts: str) -> str:
    return re.sub("[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def draw(name: str, title: str, height: float, paint: Callable[[Axes], None]) -> Picture:
    """A picture with one pair of axes."""

    def paint_figure(figure: Figure) -> None:
        paint(figure.subplots())

    return draw_figure(name, title, height, paint_figure)


def draw_lines(
    name: str, title: str, height: float, lines: Mapping[str, tuple[Points, Look]], **properties: Any
) -> Picture:
    """Lines of labelled points, with a legend below; a single point is shown as a mark, a level line without marks.

    Args:
        properties: of the axes, as `Axes.set` takes them.
    """

    def paint(axes: Axes) -> None:
        for label, (points, look) in lines.items():
            x, y = zip(*points, strict=True)
            marker = "" if len(y) > 1 and len(set(y)) == 1 else look.marker
            style: Any = {"color": look.colour, "linestyle": look.dashes, "marker": marker}
            axes.plot(x, y, label=label, linewidth=1.4, markersize=4 if len(x) > 1 else 6, **style)
        axes.set(**properties)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
        if "xticks" not in properties:
            axes.xaxis.set_major_formatter(EngFormatter())
        axes.figure.legend(loc="outside lower center", ncols=2, fontsize=FONT - 1)

    return draw(name, title, height, paint)


def draw_figure(name: str, title: str, height: float, paint: Callable[[Figure], None]) -> Picture:
    buffer = io.StringIO()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        lines = [part for line in title.splitlines() for part in wrap(line, 52)]
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        paint(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Picture(name, " ".join(title.split()), cleaned(buffer.getvalue(), name, title))


def cleaned(svg: str, name: str, title: str) -> str:
    """Without metadata, with ids of its own, and as wide as there is room."""
    namespace = "http://www.w3.org/2000/svg"
    link = "{http://www.w3.org/1999/xlink}href"
    ElementTree.register_namespace("", namespace)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{namespace}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        if "id" in element.attrib:
            element.set("id", f"{name}-{element.get('id')}")
        if link in element.attrib:
            element.set("href", f"#{name}-{element.attrib.pop(link).removeprefix('#')}")
        for key, value in element.attrib.items():
            element.set(key, value.replace("url(#", f"url(#{name}-"))
    root.set("role", "img")
    root.set("aria-label", " ".join(title.split()))
    return ElementTree.tostring(root, encoding="unicode") + "\n"
