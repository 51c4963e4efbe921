"""What a report is made of, whatever it is written as."""

from __future__ import annotations

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
