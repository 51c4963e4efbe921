"""What a report is made of, whatever it is written as."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    text: str
    value: float | None = None
    """By which a column can be sorted."""
    best: bool = False


@dataclass(frozen=True)
class Table:
    caption: str
    header: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    """Remarks below the table."""

    def is_number(self, column: int) -> bool:
        return any(line[column].value is not None for line in self.lines)


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]], *notes: str) -> Table:
    """A table whose cells are made from plain values by [`cell`]."""
    return Table(caption, tuple(header), tuple(tuple(map(cell, row)) for row in rows), notes)


def cell(value: object) -> Cell:
    """Text as it is, an int in full, another number rounded, and None as a dash."""
    if isinstance(value, Cell):
        return value
    if isinstance(value, (int, float)):
        return Cell(f"{value:,}" if isinstance(value, int) else shown(value), value)
    return Cell("-" if value is None else str(value))


def shown(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, and without an exponent up to a million."""
    return f"{value:,.0f}" if 10**digits <= abs(value) < 1e6 else f"{value:.{digits}g}"


@dataclass(frozen=True)
class Picture:
    name: str
    """Of its file, without the suffix."""
    title: str
    svg: str


@dataclass(frozen=True)
class Gallery:
    """Pictures of one kind, one per setting."""

    title: str
    reading: str
    """How to read them."""
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    text: str
    blocks: tuple[Table | Gallery, ...]
