"""What was run, on what, and how its learning rates were chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..rates import ENOUGH
from ..results import short_revision
from .content import Cell, Section, Table
from .rows import Result, Row, model_of, settings_of, train_config
from .tables import TASKS, amounts, rates, span


def provenance(rows: Sequence[Row]) -> Section:
    runs = [run for row in rows if not row.reason for run in row.runs]
    text = (
        "Budgets are those of the settings; a run whose loss stays at zero may stop sooner. "
        "Times and memory compare only within one machine. Peak memory, of training and evaluation, is on a GPU what "
        "CUDA allocated at most; on a CPU by how much the process's resident size grew from before the model was "
        "loaded, after one short run that is not measured. The peak in training is what it was before the first "
        "evaluation."
    )
    return Section("runs", "What was run", text, (budgets(rows), learning_rates(rows), environment(runs)))


def budgets(rows: Sequence[Row]) -> Table:
    lines = []
    for setting in settings_of(rows):
        own = [row for row in rows if row.setting == setting]
        configs = [train_config(run) for row in own for run in row.runs]
        infos = [run["train_info"] for row in own for run in row.successes]
        stops = [info["stopped_at"] for info in infos if info["num_trainable_params"]]
        lines.append(
            (
                Cell(setting.data_title),
                Cell(TASKS[setting.task]),
                Cell(setting.protocol),
                Cell(setting.model),
                Cell(amounts(own)),
                Cell(span(config["seed"] for config in configs)),
                Cell(" or ".join(sorted({steps(config) for config in configs}))),
                Cell(span(stops) if stops else "–"),
                Cell(span(config["batch_size"] for config in configs)),
            )
        )
    header = ("data set", "task", "protocol", "model", "examples", "seeds", "steps", "stopped at", "batch size")
    files = {
        f"{row.setting.data_title}: training examples are those of {file}."
        for row in rows
        for run in row.runs
        if (file := train_config(run).get("train_file"))
    }
    return Table("Settings and budgets", header, tuple(lines), tuple(sorted(files)))


def steps(config: dict[str, Any]) -> str:
    """Of relation, those of meta-training, then those of each episode."""
    if config["task"] != "relation":
        return f"{config['steps']:,}"
    return f"{config['meta_steps']:,} meta + {config['num_episodes']} x {config['steps']:,}"


def learning_rates(rows: Sequence[Row]) -> Table:
    """Per method that trains anything, which rates were tried, which failed, and which were taken."""
    lines = []
    for method in sorted({row.method for row in rows}):
        own = [row for row in rows if row.method == method]
        trained = [row for row in own if row.successes and row.num_trainable]
        choices = [rate_choice(row.runs[0]) for row in own]
        if not trained and not any(choices):
            continue
        runs = [run for row in own for run in row.runs]
        trials = [trial for choice in choices for trial in choice]
        tried = sorted({trial["learning_rate"] for trial in trials})
        wrong = Counter(trial["learning_rate"] for trial in trials if trial["error"])
        taken = Counter(rate for row in trained for rate in rates(row))
        chosen = sum(len(rate_choice(row.successes[0])) > 1 for row in trained)
        edges = sum(any(map(at_edge, row.successes)) for row in trained)
        lines.append(
            (
                Cell(method),
                Cell(", ".join(sorted({str(train_config(run).get("optimizer", "–")) for run in runs}))),
                Cell(", ".join(f"{rate:g}" for rate in tried) if tried else "none: set by hand"),
                Cell(span(trial["held_out"] for trial in trials) if trials else "–"),
                Cell(times(wrong, len(own)) or "–"),
                Cell(times(taken, len(trained)) or "–"),
                Cell(f"{edges} of {chosen}" if chosen else "–", edges if chosen else None),
            )
        )
    notes: tuple[str, ...] = ()
    if any(rate_choice(run) for row in rows for run in row.runs):
        notes = (
            "Each rate is tried once per method and setting, on training examples of the first seed that are held out "
            "for it, never on test examples. The best mean score is taken, among equals the lowest loss; of fewer than "
            f"{ENOUGH} held-out examples, the lowest loss.",
            "At the edge: choices that fell on the smallest or the largest rate tried; a better one may lie beyond.",
        )
    header = ("method", "optimizer", "rates tried", "held-out examples", "rates that failed")
    return Table("Learning rates", (*header, "rates taken (in how many settings)", "at the edge"), tuple(lines), notes)


def times(counts: Counter[float], settings: int) -> str:
    return ", ".join(f"{rate:g} ({count} of {settings})" for rate, count in sorted(counts.items()))


def rate_choice(run: Result) -> list[dict[str, Any]]:
    return run["run_info"].get("rate_choice") or []


def at_edge(run: Result) -> bool:
    tried = [choice["learning_rate"] for choice in rate_choice(run)]
    return len(tried) > 1 and train_config(run)["learning_rate"] in (min(tried), max(tried))


def environment(runs: Sequence[Result]) -> Table:
    packages: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run["meta_info"]["package_info"].items():
            packages.setdefault(name.removesuffix("-version"), set()).add(str(version))
    facts = {
        "models": {model_of(run) for run in runs},
        "machines": {machine(run["meta_info"]["system_info"]) for run in runs},
        "packages": {f"{name} {' or '.join(sorted(versions))}" for name, versions in packages.items()},
        "git revisions": {short_revision(str(run["run_info"].get("git_revision", "unknown"))) for run in runs},
        "runs": {f"{len(runs)}, {sum(run['train_info']['status'] != 'success' for run in runs)} of them failed"},
    }
    lines = tuple((Cell(name), Cell("; ".join(sorted(values)))) for name, values in facts.items())
    return Table("Versions and machines", ("what", "which"), lines)


def machine(info: dict[str, Any]) -> str:
    threads = info.get("num_threads", "unknown number of")
    return (
        f"{info.get('system', 'unknown')} {info.get('machine', '')}, Python {info.get('python', 'unknown')}, "
        f"{threads} {'thread' if threads == 1 else 'threads'}, accelerator: {info.get('accelerator', 'unknown')}"
    )
