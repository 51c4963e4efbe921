"""Tables of all runs; the same runs give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..files import write_json, write_text
from ..machine import machine_in_words
from ..numbers_given import options_of
from ..report.content import Cell, Section, Table, table
from ..report.markdown import markdown
from ..results import short_revision
from ..settings import SettingsError
from .measure import Settings, read_adapters, read_runs
from .sentences import LANGUAGES

Run = Mapping[str, Any]
ARMS = {
    "task": "task delta alone",
    "sum": "task + language",
    "other": "task + another language",
}
"""Ways to put deltas together, as the tables call them."""
PAIRED = "±: standard error over seeds. Differences are taken within seeds."


class Results:
    """The runs of those seeds that all languages have."""

    def __init__(self, runs: Sequence[Run], adapters: Sequence[Run]) -> None:
        self.runs = {(run["language"], run["seed"]): run for run in runs}
        self.languages = [code for code in LANGUAGES if any(code == language for language, _ in self.runs)]
        seeds = sorted({seed for _, seed in self.runs})
        self.seeds = [seed for seed in seeds if all((code, seed) in self.runs for code in self.languages)]
        if not self.seeds:
            raise SettingsError("no seed has a run of each language yet; let measure go on")
        self.used = [self.runs[code, seed] for code in self.languages for seed in self.seeds]
        self.adapters = [adapter for adapter in adapters if adapter["seed"] in self.seeds]

    def f1(self, language: str, arm: str) -> list[float]:
        """In percent, of each seed."""
        return [100 * self.runs[language, seed]["f1"][arm] for seed in self.seeds]

    def gains(self, language: str, arm: str) -> list[float]:
        """The same minus that of the task delta alone."""
        return [own - alone for own, alone in zip(self.f1(language, arm), self.f1(language, "task"), strict=True)]

    def mean_of_languages(self, values: Any, arm: str) -> list[float]:
        """Of each seed the mean over the languages."""
        return [mean(seed) for seed in zip(*(values(code, arm) for code in self.languages), strict=True)]


def write_report(output: Path, folder: Path) -> Path:
    """Write report.md, whose path is returned, and results.json; a SettingsError if there are not enough runs."""
    runs = list(read_runs(output))
    results = Results(runs, list(read_adapters(output)))
    first = results.used[0]
    revisions = sorted({short_revision(run["machine"]["revision"]) for run in [*results.used, *results.adapters]})
    machine = machine_in_words(first["machine"])
    compact = [{key: run[key] for key in run if key not in ("settings", "machine")} for run in results.used]
    of_adapters = [{key: run[key] for key in run if key not in ("settings", "machine")} for run in results.adapters]
    content = {"settings": first["settings"], "revisions": revisions, "machine": machine}
    write_json(folder / "results.json", {**content, "runs": compact, "adapters": of_adapters})
    tables = (
        arm_table(results, "Entity F1 in the language", results.f1),
        arm_table(results, "The same minus that of the task delta alone", results.gains),
        overlap_table(results),
        delta_table(results),
    )
    section = Section("tables", "Tables", "", tables)
    seeds = " ".join(map(str, results.seeds))
    left_out = len(runs) - len(results.used)
    made = f"Seeds: {seeds.replace(' ', ', ')}; runs left out: {left_out}. Revision {', '.join(revisions)}. {machine}."
    text = markdown("A language delta and a task delta", f"{conditions(first['settings'])} {made}", [section])
    own = first["settings"]
    names = ("source", "density", "num_train", "num_raw", "num_validation", "task_steps", "language_steps")
    more = options_of(own, Settings, names)
    measuring = f"measure --data path/to/data --model path/to/{own['model']} --seeds {seeds}{more}"
    made_by = "\n".join(
        f"python -m benchmarks.composition {x} --output runs/composition" for x in (measuring, "report")
    )
    write_text(folder / "report.md", f"{text}\n## Commands\n\n```bash\n{made_by}\n```\n")
    return folder / "report.md"


def conditions(own: Mapping[str, Any]) -> str:
    return (
        f"Entities (PER, LOC, ORG) in languages without a label to train on. Base: {own['model']}. The task delta is "
        f"trained on {own['num_train']} English sentences of {own['source']} ({own['task_steps']} steps of "
        f"{own['batch_size']}), together with a new token classifier; a language delta by guessing masked tokens of "
        f"{own['num_raw']} training sentences of MasakhaNER without their labels ({own['language_steps']} steps of "
        f"{own['batch_size']}, cut to {own['raw_length']} tokens), together with a new head, which is not part of it. "
        f"Both: {100 * own['density']:g} % of the encoder's entries, chosen once by the Fisher information of "
        f"{own['num_samples']} sentences; AdamW at {own['learning_rate']:g}. Entity F1 in percent, of at most "
        f"{own['num_validation']} validation sentences of each language; test sentences are not used, and nothing was "
        "chosen by these scores."
    )


def arm_table(results: Results, caption: str, values: Any) -> Table:
    rows = [[LANGUAGES[code], *(with_error(values(code, arm)) for arm in ARMS)] for code in results.languages]
    rows.append(["mean", *(with_error(results.mean_of_languages(values, arm)) for arm in ARMS)])
    return table(caption, ("language", *ARMS.values()), rows, PAIRED)


def overlap_table(results: Results) -> Table:
    rows = []
    for code in results.languages:
        found = [100 * results.runs[code, seed]["overlap"] for seed in results.seeds]
        rows.append([LANGUAGES[code], with_error(found)])
    density = results.used[0]["settings"]["density"]
    note = f"In percent of the entries of one. Of two random supports {100 * density:g} % would be common."
    return table("Entries that task delta and language delta have in common", ("language", "in common"), rows, note)


def delta_table(results: Results) -> Table:
    rows = []
    for code in results.languages:
        own = [one for one in results.adapters if one.get("language") == code]
        rows.append(
            [LANGUAGES[code], *(with_error([one[key] for one in own], 2) for key in ("loss_without_delta", "loss"))]
        )
    english = [100 * one["f1"] for one in results.adapters if "source" in one]
    note = (
        f"Nats per masked token of held-out sentences. The new head was trained with the delta, so the loss without it "
        f"is higher than that of a head for the base alone. The task delta has an F1 of {with_error(english).text} on "
        "English validation sentences."
    )
    return table("What the language delta learned", ("language", "loss without it", "loss with it"), rows, note)


def with_error(values: Sequence[float], digits: int = 1) -> Cell:
    """The mean, with its standard error if there are several values."""
    error = f" ± {stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return Cell(f"{mean(values):.{digits}f}{error}", mean(values))
