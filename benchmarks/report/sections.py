"""The report's sections, in their order; a section with nothing to show is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from . import course, pictures
from .conclusion import conclusion
from .content import Gallery, Picture, Section, Table
from .paper import paper_section
from .predictions import prediction_section
from .provenance import provenance
from .ranks import main_settings
from .rows import Row, settings_of
from .style import looks
from .tables import TASKS, data_set_table, loss_tables, overview

TITLE = "Fish-Dip beside other ways to fine-tune"
OVERVIEW = (
    "Scores are means over seeds ± the sample standard deviation (divided by n - 1; a single seed has none), in "
    "percent; the best mean of each column is bold. The mean rank gives each data set the same weight; 1 is best. With "
    "one seed nothing is bold or ranked."
)
INTERVALS = (
    "Scores are means over seeds in percent, with 95 % intervals in brackets: percentiles of a bootstrap over seeds "
    "and test examples. Two methods are not told apart if the interval of their difference, on the same seeds and "
    "examples, contains 0. The best mean of each column is bold, and what is not told apart from it. The mean rank "
    "gives each data set the same weight; 1 is best, and methods that are not told apart are tied. Intervals are not "
    "corrected for the number of comparisons; where seeds differ much and are few, they are too narrow. What follows "
    "a ± is a sample standard deviation over seeds."
)
DATA_SETS = (
    "Scores are as in the overview; sizes and times are means over seeds. An adapter's size "
    "is that of the files it is saved as. Training time includes mask updates. The share is of the base model's "
    "parameters. Changed entries are all that were ever trained: of a mask that moves, more than are trainable at once."
)


def summary(rows: Sequence[Row]) -> str:
    counts = (
        (len({row.method for row in rows}), "method"),
        (len({row.setting.dataset for row in rows}), "data set"),
        (sum(row.num_done for row in rows), "run"),
    )
    parts = [f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts]
    failed = sum(len(row.failures) for row in rows)
    return ", ".join(parts) + (f"; {failed} failed" if failed else "")


def sections(rows: Sequence[Row], reference: str) -> list[Section]:
    """
    Args:
        reference: the method that others are compared with.
    """
    shown = main_settings(rows)
    main_rows = [row for row in rows if row.setting in shown]
    text = INTERVALS if any(row.draws for row in rows) else OVERVIEW
    if len(shown) < len(settings_of(rows)):
        text += " Of each data set, one setting stands here: " + "; ".join(setting.title for setting in shown) + "."
    by_model = rows_by_model(main_rows)
    result: list[Section | None] = [
        Section("overview", "Overview", text, tuple(table for own in by_model for table in tables_of(own))),
        *picture_sections(main_rows, rows),
        prediction_section(main_rows),
        *data_set_sections(rows, reference),
        paper_section(rows),
        provenance(rows),
    ]
    return distinct([section for section in result if section])


def overviews(rows: Sequence[Row]) -> list[Table]:
    """The table of scores of each model."""
    shown = main_settings(rows)
    return [overview(own) for own in rows_by_model([row for row in rows if row.setting in shown])]


def rows_by_model(rows: Sequence[Row]) -> list[list[Row]]:
    return [[row for row in rows if row.setting.model == model] for model in models(rows)]


def lead(rows: Sequence[Row]) -> str:
    """What the results come to, of the settings that stand for all."""
    shown = main_settings(rows)
    return conclusion([row for row in rows if row.setting in shown])


def tables_of(rows: Sequence[Row]) -> tuple[Table, ...]:
    return overview(rows), *loss_tables(rows)


def models(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.setting.model for row in rows))


def data_set_sections(rows: Sequence[Row], reference: str) -> list[Section]:
    result: list[Section] = []
    for dataset in dict.fromkeys(row.setting.dataset for row in rows):
        settings = [setting for setting in settings_of(rows) if setting.dataset == dataset]
        by_setting = [[row for row in rows if row.setting == setting] for setting in settings]
        tables = tuple(data_set_table(own, reference) for own in by_setting)
        title = f"{settings[0].data_title}: {TASKS[settings[0].task]}"
        result.append(Section(f"data-{len(result) + 1}", title, "" if result else DATA_SETS, tables))
    return result


def picture_sections(main_rows: Sequence[Row], rows: Sequence[Row]) -> list[Section]:
    """Pictures of the main settings; scores by fraction need all of them."""
    style = looks(row.method for row in rows)
    several = {setting.group for setting in settings_of(rows) if len(fractions(rows, setting.group)) > 1}
    score_rows = [row for row in rows if row.setting.group in several or row in main_rows]
    text = "Each family of methods has one colour and one mark, in all pictures."
    galleries: tuple[tuple[str, str, str, tuple[Gallery, ...]], ...] = (
        (
            "scores",
            "Scores",
            text,
            (pictures.score_gallery(score_rows, style), pictures.size_gallery(main_rows, style)),
        ),
        ("costs", "Costs", "", (pictures.time_gallery(main_rows, style), pictures.memory_gallery(main_rows, style))),
        ("loss", "Training", "", (course.loss_gallery(main_rows, style),)),
        ("masks", "Masks", "", (course.overlap_gallery(main_rows, style), course.layer_gallery(main_rows))),
    )
    result: list[Section] = []
    for anchor, title, words, blocks in galleries:
        filled = tuple(block for block in blocks if block.pictures)
        if filled:
            result.append(Section(anchor, title, words, filled))
    return result


def fractions(rows: Sequence[Row], group: tuple[str, str]) -> set[float]:
    return {row.setting.fraction for row in rows if row.setting.group == group and row.setting.fraction is not None}


def distinct(parts: Sequence[Section]) -> list[Section]:
    """No two pictures with one file name."""
    seen: Counter[str] = Counter()

    def renamed(picture: Picture) -> Picture:
        seen[picture.name] += 1
        number = seen[picture.name]
        return picture if number == 1 else replace(picture, name=f"{picture.name}-{number}")

    def block(part: object) -> object:
        return replace(part, pictures=tuple(map(renamed, part.pictures))) if isinstance(part, Gallery) else part

    return [replace(section, blocks=tuple(map(block, section.blocks))) for section in parts]  # type: ignore[arg-type]


def pictures_of(parts: Sequence[Section]) -> list[Picture]:
    return [p for section in parts for block in section.blocks if isinstance(block, Gallery) for p in block.pictures]
