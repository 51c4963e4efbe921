"""One sentence that says what the results show, and no more than their intervals do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean

from .intervals import tied
from .rows import Row, Setting, settings_of
from .same_runs import repeated_settings
from .tables import metric_title

MOST = 3
"""So many methods are named in a list; of more, the others are counted."""


def conclusion(rows: Sequence[Row]) -> str:
    """Which method has the highest mean where, and which are not told apart from it.

    Each setting counts once, by the first of its metrics. Methods that lack a seed, and those without an interval, are
    left out, and so are settings in which no method scores above 0.
    """
    again = repeated_settings(rows)
    settings = [setting for setting in settings_of(rows) if setting not in again]
    first: dict[str, list[list[str]]] = {}
    nothing, unknown, single = [], [], False
    for setting in settings:
        own = [row for row in rows if row.setting == setting and row.is_complete and row.scores(setting.metrics[0])]
        known = [row for row in own if setting.metrics[0] in row.draws]
        if own and not any(mean(row.scores(setting.metrics[0])) for row in own):
            nothing.append(setting)
        elif len(known) < 2:
            unknown.append(setting)
        else:
            single = single or known[0].num_seeds == 1
            leader, others = leader_of(known, setting.metrics[0])
            first.setdefault(leader, []).append(others)
    parts = [leaders(first, settings)] if first else []
    if nothing:
        parts.append(f"no method scores above 0 on {titles(nothing)}")
    if unknown:
        parts.append(f"on {titles(unknown)} there are no intervals of two methods, so nothing is told apart")
    text = "; ".join(parts)
    if single:
        text += " (with one seed, the intervals are over test examples alone)"
    return f"{text[:1].upper() if not first else text[:1]}{text[1:]}."


def leader_of(rows: Sequence[Row], metric: str) -> tuple[str, list[str]]:
    """The method with the highest mean, and those that are not told apart from it."""
    leader = min(rows, key=lambda row: (-mean(row.scores(metric)), row.method))
    return leader.method, [row.method for row in rows if row is not leader and tied(row, leader, metric)]


def leaders(first: dict[str, list[list[str]]], settings: Sequence[Setting]) -> str:
    """Who has the highest mean on how many of the settings."""
    metrics = {metric_title(setting.metrics[0]) for setting in settings}
    measure = f"mean {next(iter(metrics))}" if len(metrics) == 1 else "mean score"
    one_each = len({setting.group for setting in settings}) == len({setting.dataset for setting in settings})
    unit = "data set" if one_each and len({s.dataset for s in settings}) == len(settings) else "setting"
    ordered = sorted(first, key=lambda method: (-len(first[method]), method))
    clauses = []
    for number, method in enumerate(ordered[:MOST]):
        count = len(first[method])
        of_all = f" of {len(settings)} {unit}s" if not number else ""
        where = f"on {count}{of_all}" if len(settings) > 1 else f"on {settings[0].title}"
        verb = f"has the highest {measure}" if not number else "has it"
        clauses.append(f"{method} {verb} {where}, {apart(first[method])}")
    if rest := ordered[MOST:]:
        clauses.append(f"{len(rest)} other methods have it on {sum(len(first[method]) for method in rest)}")
    return "; ".join(clauses)


def apart(others: Sequence[Sequence[str]]) -> str:
    """What is not told apart from a method, over the settings in which it has the highest mean."""
    counts = Counter(method for methods in others for method in methods)
    if not counts:
        return "told apart from all others"
    ordered = sorted(counts, key=lambda method: (-counts[method], method))
    named = [m if counts[m] == len(others) else f"{m} (on {counts[m]})" for m in ordered[:MOST]]
    if more := len(ordered) - MOST:
        named += [f"{more} {'other' if more == 1 else 'others'}"] if more > 0 else []
    return f"not told apart there from {listed(named)}"


def titles(settings: Sequence[Setting]) -> str:
    names = [setting.title for setting in settings]
    return "; ".join(names) if len(names) <= MOST else f"{len(names)} settings"


def listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
