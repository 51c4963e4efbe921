"""Tables and pictures of all runs; the same runs give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from peft_fishdip.tasks import Calibration, CalibrationBin
from peft_fishdip.view.reliability import draw_reliability

from ..files import write_json, write_text
from ..machine import machine_in_words
from ..numbers_given import options_of
from ..report.content import Cell, Gallery, Picture, Section, Table, table
from ..report.markdown import markdown
from ..report.style import draw, slug
from ..results import short_revision
from ..settings import SettingsError
from .measure import WAYS, Settings, read_runs
from .sentences import DATA_SETS

Run = Mapping[str, Any]
COMPACT = ("data_set", "seed", "num_validation", "training_loss", "train_seconds", "ways", "calibration")
COUNTS = {"malformed": "malformed", "unreadable": "not parsed", "unaligned": "not the sentence", "cut": "cut off"}
"""Counts of outputs and their titles."""
TITLES = {"free": "without", "constrained": "with"}


def write_report(output: Path, folder: Path) -> Path:
    """Write report.md, whose path is returned, results.json and pictures; a SettingsError if there is no run."""
    runs = list(read_runs(output))
    if not runs:
        raise SettingsError(f"--output {output} has no run yet; measure first")
    first = runs[0]
    own = first["settings"]
    if any(run["settings"] != own for run in runs):
        raise SettingsError(f"--output {output} has runs of different settings; report one --output for each")
    revisions = sorted({short_revision(run["machine"]["revision"]) for run in runs})
    machine = machine_in_words(first["machine"])
    rows = [{key: run[key] for key in COMPACT} for run in runs]
    write_json(folder / "results.json", {"settings": own, "revisions": revisions, "machine": machine, "runs": rows})
    pictures = [reliability(run) for run in runs if run["calibration"]]
    for picture in pictures:
        write_text(folder / "pictures" / f"{picture.name}.svg", picture.svg)
    section = Section("tables", "Tables", "", (outputs_table(runs), scores_table(runs), time_table(runs)))
    reading = (
        "Answers of the constrained model, in ten bins by their score: each point is a bin, and its number counts the "
        "answers. On the dashed line as many answers are right as their scores promise; below it, scores are too high."
    )
    gallery = Section("calibration", "Calibration", "", (Gallery("Reliability", reading, tuple(pictures)),))
    made = f"Runs: {', '.join(named(run) for run in runs)}. Revision {', '.join(revisions)}."
    summary = f"{conditions(own)} {made} {machine}."
    text = markdown("Decoding under a grammar", summary, [section, *([gallery] if pictures else [])])
    write_text(folder / "report.md", f"{text}\n## Commands\n\n```bash\n{commands(runs)}\n```\n")
    return folder / "report.md"


def conditions(own: Mapping[str, Any]) -> str:
    return (
        f"{own['model']} with Fish-Dip as it is by default (AdamW at 1e-3), trained on {own['num_train']} sentences of "
        f"at most {own['most_words']} words that have something to be found: {own['steps']} steps of batch "
        f"{own['batch_size']}, so few that a model without a grammar errs. Then at most {own['num_validation']} "
        f"validation sentences were predicted, greedily and in batches of {own['eval_batch_size']}, without "
        f"(constrained=False) and with a grammar (constrained=True, the default), {own['rounds']} times in turn; at "
        f"most {own['max_new_tokens']} tokens are written. Test sentences are not used."
    )


def commands(runs: Sequence[Run]) -> str:
    own = runs[0]["settings"]
    seeds = " ".join(map(str, sorted({run["seed"] for run in runs})))
    more = options_of(own, Settings, ("num_train", "num_validation", "steps", "rounds"))
    names = dict.fromkeys(run["data_set"] for run in runs)
    sets = "" if len(names) == len(DATA_SETS) else f" --data-sets {' '.join(names)}"
    measuring = f"measure --data path/to/data --model path/to/{own['model']}{sets} --seeds {seeds}{more}"
    return "\n".join(f"python -m benchmarks.decoding {x} --output runs/decoding" for x in (measuring, "report"))


def named(run: Run) -> str:
    return f"{run['data_set']} seed {run['seed']}"


def outputs_table(runs: Sequence[Run]) -> Table:
    """Shares of outputs, in percent."""
    rows = []
    for run in runs:
        for way in WAYS:
            shares = (100 * run["ways"][way][name] / run["num_validation"] for name in COUNTS)
            rows.append([named(run), TITLES[way], *(Cell(f"{share:.1f}", share) for share in shares)])
    return table(
        "Malformed outputs, in percent",
        ("run", "grammar", *COUNTS.values()),
        rows,
        "Malformed: not parsed, or not the sentence. Not parsed: format_error, label_error, entity_error. Not the "
        "sentence: wrong_reconstruction, alignment_error, partial_token. Cut off: output_cut.",
    )


def scores_table(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        free, constrained = (run["ways"][way]["scores"] for way in WAYS)
        for name in (name for name in free if name.endswith("f1")):
            pair = [100 * scores[name] for scores in (free, constrained)]
            cells = [Cell(f"{value:.1f}", value) for value in (*pair, pair[1] - pair[0])]
            rows.append([named(run), name.replace("_", " "), *cells])
    header = ("run", "score", *TITLES.values(), "with minus without")
    return table("F1, in percent", header, rows, "Of outputs that are malformed, what can be read counts.")


def time_table(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        row: list[Any] = [named(run)]
        for way in WAYS:
            value = 1000 * mean(run["ways"][way]["seconds"]) / run["num_validation"]
            row.append(Cell(f"{value:.0f}", value))
        for figure in ("seconds", "cpu_seconds"):
            free, constrained = (run["ways"][way][figure] for way in WAYS)
            ratios = [other / one for one, other in zip(free, constrained, strict=True)]
            row.append(Cell(f"{mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", mean(ratios)))
        rows.append(row)
    header = ("run", "ms a sentence, without", "with", "ratio of times", "ratio of CPU times")
    note = "Ratios: with divided by without, of each round; their mean, and the least and the greatest."
    return table("Time", header, rows, note)


def calibration_in(run: Run) -> Calibration:
    return Calibration(tuple(CalibrationBin(**each) for each in run["calibration"]["bins"]))


def reliability(run: Run) -> Picture:
    calibration = calibration_in(run)
    title = f"{named(run)}: expected calibration error {calibration.error:.2f}"
    return draw(slug("reliability", named(run)), title, 3.6, lambda axes: draw_reliability(axes, calibration))
