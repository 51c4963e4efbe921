"""The scores and the costs, as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean

from .content import Cell, Table
from .intervals import notes_of
from .ranks import mean_ranks, ordered_methods
from .remarks import remarks
from .rows import Row, first_error, one_line, settings_of, train_config
from .same_runs import same_notes
from .score_cells import NOTHING, difference_cell, figure_cell, forgetting_cell, forgetting_notes, score_cell

TASKS = {
    "ner": "named entities",
    "relation": "relation classification",
    "joint": "entities and relations",
    "srl": "semantic roles",
    "dst": "dialogue state",
}
UNITS = {"TOKEN_CLS": "word", "SEQ_CLS": "text"}
"""What a loss is the mean of, for models that classify."""


def metric_title(metric: str) -> str:
    return metric.replace("_", " ").replace("f1", "F1")


def overview(rows: Sequence[Row]) -> Table:
    """Methods by (data set, metric), for rows of one model."""
    settings = settings_of(rows)
    repeated = {s.group for s in settings if sum(other.group == s.group for other in settings) > 1}
    columns = [(setting, metric) for setting in settings for metric in setting.metrics]
    known = mean_ranks(rows)
    num_groups = len({setting.group for setting in settings})
    shows_forgetting = any(row.plain_texts for row in rows)
    lines = []
    for method in ordered_methods(rows):
        own = [row for row in rows if row.method == method]
        rank, count = known.get(method, (0.0, 0))
        some = "" if count == num_groups else f" ({count} of {num_groups})"
        lines.append(
            (
                Cell(method),
                Cell(f"{rank:.1f}{some}", rank) if count else NOTHING,
                share_cell(own),
                *([forgetting_cell(own)] if shows_forgetting else []),
                *(score_cell(rows, method, setting, metric) for setting, metric in columns),
            )
        )
    header = (
        f"{s.data_title}{f' ({s.protocol})' if s.group in repeated else ''} {metric_title(metric)}"
        for s, metric in columns
    )
    notes = (*notes_of(rows), *same_notes(rows), *unranked(rows), *forgetting_notes(rows), *failures(rows))
    if any(count != num_groups for _, count in known.values()):
        notes = (
            "A mean rank with (n of m) is over the n data sets on which the method has a score of every seed.",
            *notes,
        )
    model = settings[0].model
    spread = "[95 % interval]" if any(row.draws for row in rows) else "± standard deviation over seeds"
    caption = f"Mean {spread}, in percent; {model}"
    first = ("method", "mean rank", "trainable share", *(["forgetting"] if shows_forgetting else []))
    return Table(caption, (*first, *header), tuple(lines), notes)


def unranked(rows: Sequence[Row]) -> tuple[str, ...]:
    """Where methods have no rank, although they have a score of every seed."""
    alone = [
        row.setting.title
        for row in rows
        if row.num_seeds == 1 and any(row.scores(metric) and metric not in row.draws for metric in row.setting.metrics)
    ]
    if not alone:
        return ()
    where = "; ".join(dict.fromkeys(alone))
    return (f"One seed and no interval, which tells no methods apart, so that there are no ranks: {where}.",)


def loss_tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """Methods by data set, for rows of one model; none if no run has a loss."""
    if not any(row.losses for row in rows):
        return ()
    settings = settings_of(rows)
    lines = tuple(
        (Cell(method), *(figure_cell(rows, method, setting, lambda row: row.losses, 3, min) for setting in settings))
        for method in ordered_methods(rows)
    )
    kinds = {train_config(run).get("task_type") for row in rows for run in row.successes}
    units = [unit for kind, unit in UNITS.items() if kind in kinds] or ["token of the target"]
    caption = f"Loss on the test examples, -log p in nats per {' or '.join(units)}; {settings[0].model}"
    note = "Lower is better."
    if not kinds & UNITS.keys():
        note += " It tells methods apart where none of them writes a whole target without fault yet."
    return (Table(caption, ("method", *(setting.title for setting in settings)), lines, (note,)),)


def data_set_table(rows: Sequence[Row], reference: str) -> Table:
    """Scores, differences to the reference and costs of all methods in one setting, best score first."""
    setting = rows[0].setting
    compared = setting.metrics if any(row.draws for row in rows if row.method == reference) else ()
    shows_forgetting = any(row.plain_texts for row in rows)
    first = setting.metrics[0]
    ordered = sorted(rows, key=lambda row: (-mean(row.scores(first) or [-1.0]), row.method))
    costs: tuple[tuple[str, Callable[[Row], Cell]], ...] = (
        ("learning rate", rates_cell),
        ("trainable", lambda row: Cell(f"{row.num_trainable:,.0f}", row.num_trainable)),
        ("share", lambda row: share_cell([row])),
        ("changed entries", lambda row: Cell(f"{row.num_changed:,.0f}", row.num_changed)),
        ("adapter", lambda row: size_cell(row, "file_size")),
        ("training", lambda row: seconds_cell(row, "train_time")),
        ("of it mask updates", lambda row: seconds_cell(row, "mask_update_time")),
        ("evaluation", lambda row: seconds_cell(row, "eval_time")),
        ("peak memory", lambda row: size_cell(row, "accelerator_memory_max")),
        ("peak in training", lambda row: size_cell(row, "memory_after_fit") if row.num_trainable else NOTHING),
    )
    lines = tuple(
        (
            Cell(row.method),
            NOTHING if row.reason else Cell(f"{len(row.successes)} of {row.num_seeds}", len(row.successes)),
            *(score_cell(rows, row.method, setting, metric) for metric in setting.metrics),
            *(difference_cell(rows, row, reference, metric) for metric in compared),
            *([forgetting_cell([row])] if shows_forgetting else []),
            *((cell(row) if row.successes else NOTHING) for _, cell in costs),
        )
        for row in ordered
    )
    header = (
        *("method", "seeds", *map(metric_title, setting.metrics)),
        *(f"{metric_title(metric)} minus that of {reference}" for metric in compared),
        *(["forgetting"] if shows_forgetting else []),
        *(title for title, _ in costs),
    )
    notes = (*notes_of(rows), *failures(rows), *remarks(rows))
    return Table(f"{setting.title}: {amounts(rows)}", header, lines, notes)


def share_cell(rows: Sequence[Row]) -> Cell:
    shares = [row.share for row in rows if row.successes]
    if not shares:
        return NOTHING
    low, high = f"{min(shares):.3g}", f"{max(shares):.3g}"
    return Cell(f"{low} %" if low == high else f"{low} to {high} %", mean(shares))


def rates_cell(row: Row) -> Cell:
    if not row.num_trainable:
        return NOTHING
    return Cell(", ".join(f"{rate:g}" for rate in rates(row)), rates(row)[0])


def rates(row: Row) -> list[float]:
    return sorted({train_config(run)["learning_rate"] for run in row.successes})


def seconds_cell(row: Row, name: str) -> Cell:
    value = mean(row.figures(name))
    if name == "mask_update_time" and not value:
        return NOTHING
    return Cell(f"{value:,.1f} s" if value < 100 else f"{value:,.0f} s", value)


def size_cell(row: Row, name: str) -> Cell:
    value = mean(row.figures(name)) / 2**20
    return Cell(f"{value:,.2f} MiB" if value < 10 else f"{value:,.0f} MiB", value)


def amounts(rows: Sequence[Row]) -> str:
    """How many examples the runs saw."""
    configs = [train_config(run) for row in rows for run in row.runs]
    parts = [
        f"{span(config[name] for config in configs if config.get(name) is not None)} {what} examples"
        for name, what in (("num_train_examples", "training"), ("num_test_examples", "test"))
        if any(config.get(name) is not None for config in configs)
    ]
    return ", ".join(parts)


def span(values: object) -> str:
    """One number, or the least and the greatest of several."""
    numbers = sorted(set(values))  # type: ignore[call-overload]
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"


def failures(rows: Sequence[Row]) -> tuple[str, ...]:
    """What failed, and what is not possible with this model."""
    notes = []
    for row in rows:
        if row.failures:
            seeds = ", ".join(str(train_config(run)["seed"]) for run in row.failures)
            plural = "s" if len(row.failures) > 1 else ""
            notes.append(f"{row.method} on {row.setting.title}, seed{plural} {seeds} failed: {first_error(row)}")
    places: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.reason:
            places.setdefault((row.method, one_line(row.reason)), []).append(row.setting.title)
    notes += [f"{method} is not possible on {'; '.join(on)}: {reason}" for (method, reason), on in places.items()]
    return tuple(notes)
