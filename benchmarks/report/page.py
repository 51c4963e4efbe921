"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .content import Gallery, Picture, Section
from .style import INK, KINDS, PAPER, Kind, kind

HERE = Path(__file__).parent


def page(title: str, summary: str, sections: Sequence[Section], methods: Iterable[str], lead: str = "") -> str:
    """All text is escaped by the template; only pictures, which escape their own, go in as they are."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    used = {kind(method).title for method in methods}
    return environment.get_template("page.html").render(
        title=title,
        lead=lead,
        summary=summary,
        sections=sections,
        kinds=[(k.title, mark(k)) for k in KINDS if k.title in used],
        is_gallery=lambda block: isinstance(block, Gallery),
        inline=inline,
        breakable=breakable,
    )


def inline(picture: Picture) -> Markup:
    """Text takes the colour of the page, on its background."""
    svg = picture.svg.replace(' xmlns="http://www.w3.org/2000/svg"', "").replace(PAPER, "none")
    return Markup(svg.replace(INK, "currentColor"))


def breakable(name: str) -> Markup:
    """With leave to begin a new line after each "/"."""
    return Markup("/<wbr>").join(name.split("/"))


def mark(family: Kind) -> str:
    """The family's colour in a style attribute."""
    return family.colour.replace(INK, "currentColor")
