"""Cells of a table with scores, differences of scores, and forgetting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, stdev

from ..settings import SettingsError
from .bootstrap import Interval
from .content import Cell
from .intervals import difference, score_interval, tied
from .rows import Row, Setting

NOTHING = Cell("–")
NOT_APART = "not told apart"


def score_cell(rows: Sequence[Row], method: str, setting: Setting, metric: str) -> Cell:
    """Mean and interval; without counts of test examples, mean and deviation over seeds."""

    def text(row: Row) -> str | None:
        found = score_interval(row, metric)
        return None if found is None else f"{found.value:.1f} {bounds(found)}"

    return figure_cell(
        *(rows, method, setting, lambda row: row.scores(metric), 1, max),
        text=text,
        tied=lambda row, other: tied(row, other, metric),
    )


def figure_cell(
    rows: Sequence[Row],
    method: str,
    setting: Setting,
    figures: Callable[[Row], list[float]],
    digits: int,
    best_of: Callable[..., Row],
    text: Callable[[Row], str | None] = lambda _: None,
    tied: Callable[[Row, Row], bool | None] = lambda _, __: None,
) -> Cell:
    """Mean and deviation over seeds, or another text.

    Of the methods with all seeds, the best mean and those that are tied with it are best, unless all are; where it is
    not known what is tied, those that show the same mean, or none if there is one seed.
    """
    here = {row.method: row for row in rows if row.setting == setting}
    if method not in here:
        return NOTHING
    row = here[method]
    values = figures(row)
    if not values:
        return Cell("failed" if row.failures else "not possible" if row.reason else "–")

    def shown(row: Row) -> str:
        return f"{mean(figures(row)):.{digits}f}"

    def is_best(row: Row) -> bool:
        same = tied(row, leader)
        return row.num_seeds > 1 and shown(row) == shown(leader) if same is None else same

    told = text(row) or shown(row) + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")
    if len(values) < row.num_seeds:
        told += f" ({len(values)} of {row.num_seeds} seeds)"
    if not row.is_complete:
        return Cell(told, mean(values))
    complete = [other for other in here.values() if other.is_complete and figures(other)]
    leader = best_of(complete, key=lambda other: mean(figures(other)))
    return Cell(told, mean(values), is_best(row) and not all(map(is_best, complete)))


def difference_cell(rows: Sequence[Row], row: Row, reference: str, metric: str) -> Cell:
    """A score minus that of the reference on the same seeds and test examples, for rows of one setting."""
    other = next(other for other in rows if other.method == reference)
    if row is other:
        return Cell("reference")
    found = difference(row, other, metric)
    if found is None:
        return NOTHING
    told = f", {NOT_APART}" if found.contains_zero else ""
    return Cell(f"{found.value:+.1f} {bounds(found, '+')}{told}", found.value)


def bounds(found: Interval, sign: str = "") -> str:
    return f"[{found.low:{sign}.1f}, {found.high:{sign}.1f}]"


def forgetting_cell(rows: Sequence[Row]) -> Cell:
    """Of one method: the mean over its settings of the mean over seeds, and of one setting the deviation over seeds."""
    values = [row.forgetting for row in rows if row.forgetting]
    texts = [text for row in rows for text in row.plain_texts]
    if not values:
        return NOTHING if not texts else Cell("not measured" if any(text["reason"] for text in texts) else "not finite")
    average = mean(map(mean, values))
    text = f"{average:+.3f}"
    if len(rows) == 1 and len(values[0]) > 1:
        text += f" ± {stdev(values[0]):.3f}"
    measured, runs = sum(map(len, values)), sum(len(row.successes) for row in rows)
    return Cell(text + (f" ({measured} of {runs} runs)" if measured < runs else ""), average)


def forgetting_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """On which texts it was measured, and why it was not.

    Raises:
        SettingsError: it was measured on different texts.
    """
    found = [(row, text) for row in rows for text in row.plain_texts]
    if not found:
        return ()
    digests = dict.fromkeys(text["digest"] for _, text in found)
    if len(digests) > 1:
        names = ", ".join(dict.fromkeys(text["origin"] for _, text in found))
        raise SettingsError(
            f"forgetting was measured on {len(digests)} different selections of texts ({names}): these do not compare; "
            "report their folders one at a time"
        )
    notes = []
    if measured := [text for _, text in found if not text["reason"]]:
        text = measured[0]
        left_out = [f"{text['num_cut']} cut", f"{text['num_short']} left out, as they are too short"]
        counts = [part for part in left_out if not part.startswith("0 ")]
        notes.append(
            "Forgetting: by how much training raised the mean loss per token of plain text, in nats; more is worse. "
            f"Before it was {text['loss_before']:.3f}, over {text['num_tokens']:,} tokens of {text['num_texts']:,} "
            f"texts of {text['origin']}{''.join(f', {part}' for part in counts)}."
        )
    reasons: dict[str, dict[str, None]] = {}
    for row, text in found:
        if text["reason"]:
            reasons.setdefault(text["reason"], {})[row.method] = None
    notes += [f"Forgetting was not measured of {', '.join(methods)}: {reason}." for reason, methods in reasons.items()]
    without = dict.fromkeys(row.method for row in rows if row.successes and not row.plain_texts)
    if without:
        notes.append(f"Results of {', '.join(without)} were made without measuring forgetting.")
    return tuple(notes)
