"""The report as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from .content import Gallery, Section, Table


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
    """A sentence and tables for a terminal: nothing is escaped, and nothing is bold."""
    return paragraphs([lead, *(part for table in tables for part in table_parts(table, plain=True))])


def table_parts(table: Table, plain: bool = False) -> list[str]:
    def write(text: str) -> str:
        return " ".join(text.split()) if plain else escaped(text)

    def bold(text: str) -> str:
        return text if plain else f"**{text}**"

    cells = [[bold(write(cell.text)) if cell.best else write(cell.text) for cell in line] for line in table.lines]
    lines = [[write(title) for title in table.header], *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    rule = ["-" * (width + 1) + (":" if table.is_number(i) else "-") for i, width in enumerate(widths)]
    text.insert(1, "|" + "|".join(rule) + "|")
    notes = "\n".join(f"- {write(note)}" for note in table.notes)
    return [bold(write(table.caption)), "\n".join(text), notes]


def gallery_parts(gallery: Gallery) -> list[str]:
    images = [f"![{escaped(picture.title)}](pictures/{picture.name}.svg)" for picture in gallery.pictures]
    return [f"### {escaped(gallery.title)}", escaped(gallery.reading), "\n".join(images)]


def escaped(text: str) -> str:
    """Shown as it is: neither HTML nor Markdown, and no end of a table's cell."""
    return re.sub(r"([\\|*_`\[\]])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
