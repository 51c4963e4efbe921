"""Example predictions, as tables: one for each test example."""

from __future__ import annotations

from collections.abc import Sequence

from .content import Cell, Section, Table
from .rows import Result, Row, one_line, settings_of

SHOWN = 3
"""Examples of each setting."""
PRINTED = 2
"""The same in a terminal, of one setting."""
LONGEST = 400
"""Characters of a text; what is longer is cut."""
TEXT = (
    "What the methods predicted for the first test examples of their first seed, as the labelled text that a model "
    "writes, beside the one that is right (gold). They show what kind of mistakes there are; they are too few to say "
    "how many."
)


def prediction_section(rows: Sequence[Row]) -> Section | None:
    """Left out where no result has predictions, which those of earlier versions do not."""
    tables = tuple(
        table for setting in settings_of(rows) for table in tables_of([r for r in rows if r.setting == setting])
    )
    return Section("predictions", "Example predictions", TEXT, tables) if tables else None


def tables_to_print(rows: Sequence[Row]) -> list[Table]:
    """Of the first setting that has any, so many as a terminal has room for."""
    by_setting = (tables_of([row for row in rows if row.setting == setting]) for setting in settings_of(rows))
    return next((tables[:PRINTED] for tables in by_setting if tables), [])


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """Those of one setting."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    without = []
    for row in rows:
        if row.successes and not predictions(row.successes[0]):
            without.append(row.method)
        for one in predictions(row.successes[0]) if row.successes else ():
            found.setdefault((one["source"], one["gold"]), {})[row.method] = one["predicted"]
    notes = (f"Results of {', '.join(without)} were made without keeping predictions.",) if without else ()
    tables = []
    for (source, gold), by_method in list(found.items())[:SHOWN]:
        lines = [(Cell("gold"), Cell(one_line(gold, LONGEST)), Cell("–"))]
        for method, text in by_method.items():
            lines.append((Cell(method), Cell(one_line(text, LONGEST)), Cell("yes" if text == gold else "no")))
        caption = f"{rows[0].setting.title}: {one_line(source, LONGEST)}"
        tables.append(Table(caption, ("method", "labelled text", "as gold"), tuple(lines), notes))
        notes = ()
    return tables


def predictions(run: Result) -> list[dict[str, str]]:
    return run["train_info"].get("predictions") or []
