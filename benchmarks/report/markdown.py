"""The report as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from .content import Cell, Gallery, Section, Table


def markdown(title: str, summary: str, sections: Sequence[Section], lead: str = "") -> str:
    """
    Args:
        lead: what the report comes to; it stands first.
    """
    parts = [f"# {escaped(title)}", escaped(lead), escaped(summary)]
    for section in sections:
        parts += [f"## {escaped(section.title)}", escaped(section.text)]
        for block in section.blocks:
            parts += table_parts(block) if isinstance(block, Table) else gallery_parts(block)
    return paragraphs(parts)


def paragraphs(parts: Sequence[str]) -> str:
    """Parts that are not empty, with a line between them."""
    return "\n\n".join(part for part in parts if part) + "\n"


def brief(lead: str, tables: Sequence[Table]) -> str:
    """A sentence and tables, without marks that only a renderer of Markdown would hide."""
    text = paragraphs([escaped(lead), *(part for table in tables for part in table_parts(table))])
    return html.unescape(re.sub(r"\\([\\|*_`\[\]])", r"\1", text.replace("**", "")))


def table_parts(table: Table) -> list[str]:
    lines = [[escaped(title) for title in table.header], *([shown(cell) for cell in cells] for cells in table.lines)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    rule = ["-" * (width + 1) + (":" if table.is_number(i) else "-") for i, width in enumerate(widths)]
    text.insert(1, "|" + "|".join(rule) + "|")
    notes = "\n".join(f"- {escaped(note)}" for note in table.notes)
    return [f"**{escaped(table.caption)}**", "\n".join(text), notes]


def shown(cell: Cell) -> str:
    return f"**{escaped(cell.text)}**" if cell.best else escaped(cell.text)


def gallery_parts(gallery: Gallery) -> list[str]:
    images = [f"![{escaped(picture.title)}](pictures/{picture.name}.svg)" for picture in gallery.pictures]
    return [f"### {escaped(gallery.title)}", escaped(gallery.reading), "\n".join(images)]


def escaped(text: str) -> str:
    """Shown as it is: neither HTML nor Markdown, and no end of a table's cell."""
    return re.sub(r"([\\|*_`\[\]])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
