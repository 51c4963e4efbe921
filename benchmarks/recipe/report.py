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
from .measure import Settings, read_runs
from .recipes import DEFAULT, RECIPES, TEMPLATES, Recipe
from .sentences import FILES

Run = Mapping[str, Any]
COMPACT = ("data_set", "seed", "f1", "validation_loss", "training_loss", "train_seconds", "trained_entries")
FIGURES = {"f1": 1, "validation_loss": 3}
"""With the digits that are shown."""
CHOSEN = ("num_train", "num_validation", "steps")
"""Settings of the command line that are numbers."""
MORE = {"training_loss": 3, "train_seconds": 0}
NOTE = "Bold: the best of Fish-Dip's recipes. ±: standard error over data sets and seeds."


class Results:
    """The runs of those seeds of each data set that all recipes have."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.recipes = RECIPES[runs[0]["settings"]["kind"]] if runs else ()
        found = {((run["data_set"], run["seed"]), Recipe(**run["recipe"])): run for run in runs}
        pairs = sorted({pair for pair, _ in found}, key=lambda pair: ([*FILES].index(pair[0]), pair[1]))
        self.pairs = [pair for pair in pairs if all((pair, recipe) in found for recipe in self.recipes)]
        self.runs = {key: run for key, run in found.items() if key[0] in self.pairs}
        self.data_sets = list(dict.fromkeys(name for name, _ in self.pairs))
        if not self.pairs:
            raise SettingsError("no seed of a data set has a run of each recipe yet; let measure go on")

    def values(self, recipe: Recipe, figure: str, data_set: str | None) -> list[float]:
        """One per seed of a data set; or of all data sets."""
        factor = 100 if figure == "f1" else 1
        return [factor * self.runs[x, recipe][figure] for x in self.pairs if data_set in (None, x[0])]

    def mean(self, recipe: Recipe, figure: str, data_set: str | None = None) -> float:
        """Over the seeds of a data set; or over the data sets."""
        if data_set is None:
            return mean(self.mean(recipe, figure, name) for name in self.data_sets)
        return mean(self.values(recipe, figure, data_set))

    def best(self, figure: str, data_set: str | None = None) -> Recipe:
        choose = max if figure == "f1" else min
        ours = (recipe for recipe in self.recipes if recipe.method == "fishdip")
        return choose(ours, key=lambda recipe: self.mean(recipe, figure, data_set))


def write_report(output: Path, folder: Path) -> Path:
    """Write report.md, whose path is returned, and results.json; a SettingsError if there are not enough runs."""
    runs = list(read_runs(output))
    results = Results(runs)
    first = next(iter(results.runs.values()))
    revisions = sorted({short_revision(run["machine"]["revision"]) for run in runs})
    machine = machine_in_words(first["machine"])
    rows = [{key: run[key] for key in COMPACT} | {"recipe": Recipe(**run["recipe"]).name} for run in runs]
    content = {"settings": first["settings"], "revisions": revisions, "machine": machine, "runs": rows}
    write_json(folder / "results.json", content)
    tables = [recipe_table(results, name) for name in (None, *results.data_sets)]
    section = Section("tables", "Tables", "", (difference_table(results), *tables))
    pairs = ", ".join(f"{name} seed {seed}" for name, seed in results.pairs)
    made = f"Runs: {pairs}; left out: {len(runs) - len(results.runs)}. Revision {', '.join(revisions)}."
    text = markdown("What to begin with", f"{conditions(first['settings'])} {made} {machine}.", [section])
    seeds = " ".join(map(str, sorted({seed for _, seed in results.pairs})))
    own = first["settings"]
    more = options_of(own, Settings, CHOSEN) + " --bf16" * own["bf16"]
    sets = "" if results.data_sets == [*FILES] else f" --data-sets {' '.join(results.data_sets)}"
    measuring = f"measure --data path/to/data --model path/to/{own['model']}{sets} --seeds {seeds}{more}"
    made_by = "\n".join(f"python -m benchmarks.recipe {x} --output runs/recipe" for x in (measuring, "report"))
    write_text(folder / "report.md", f"{text}\n## Commands\n\n```bash\n{made_by}\n```\n")
    return folder / "report.md"


def conditions(own: Mapping[str, Any]) -> str:
    model, of, more = {
        "tagger": (
            "A new token classifier on",
            "a word",
            " The new classifier is trained whole, at the same rate where none is given.",
        ),
        "writer": ("Augmented text by", "a target token", ""),
        "decoder": (
            "Augmented text by the decoder",
            "a target token",
            " Prompts: the source and a line end, or as said.",
        ),
    }[own["kind"]]
    precision = ", bfloat16 autocast" if own["bf16"] else ""
    return (
        f"{model} {own['model']}, trained on {own['num_train']} sentences of at most {own['most_words']} words: "
        f"{own['steps']} steps of batch {own['batch_size']}, a linear schedule without warm-up, gradients clipped to "
        f"{own['max_grad_norm']:g}, no weight decay{precision}. Entity F1 in percent, and the loss of {of} in nats, "
        f"of at most {own['num_validation']} validation sentences; test sentences are not used. Fish-Dip has a density "
        f"of 1 % and updates its mask as by default, by all training sentences.{more}"
    )


def title(recipe: Recipe) -> str:
    methods = {"fishdip": f"Fish-Dip, {recipe.delta_scale}", "lora": "LoRA r8", "full": "all parameters"}
    optimizer = {"adamw": "AdamW", "sparse_adafactor": "SparseAdafactor"}[recipe.optimizer]
    own = "" if recipe.classifier_rate is None else f", classifier {recipe.classifier_rate:g}"
    prompt = f", prompt {TEMPLATES[recipe.template]!r}" if recipe.template else ""
    return f"{methods[recipe.method]}, {optimizer} {recipe.rate:g}{own}{prompt}"


def difference_table(results: Results) -> Table:
    rows = []
    for name in [*results.data_sets, None]:
        row: list[Any] = [name or "mean"]
        for figure, digits in FIGURES.items():
            best = results.best(figure, name)
            found, top = (results.mean(recipe, figure, name) for recipe in (DEFAULT, best))
            row += [number(found, digits), title(best), number(found - top, digits)]
        rows.append(row)
    header = [x for figure in ("F1", "loss") for x in (f"default {figure}", "best", "default minus best")]
    note = f"The default is {title(DEFAULT)}; best of Fish-Dip's recipes, chosen by these very scores."
    return table("The default and the best", ("data set", *header), rows, note)


def recipe_table(results: Results, name: str | None) -> Table:
    rows = []
    for recipe in results.recipes:
        row: list[Any] = [title(recipe)]
        for figure, digits in FIGURES.items():
            row.append(number(results.mean(recipe, figure, name), digits, recipe == results.best(figure, name)))
        f1 = (results.values(each, "f1", name) for each in (recipe, DEFAULT))
        gains = [own - default for own, default in zip(*f1, strict=True)]
        error = f" ± {stdev(gains) / len(gains) ** 0.5:.1f}" if len(gains) > 1 and recipe != DEFAULT else ""
        gain = results.mean(recipe, "f1", name) - results.mean(DEFAULT, "f1", name)
        row.append(Cell(f"{gain:.1f}{error}", gain))
        row += [number(results.mean(recipe, figure, name), digits) for figure, digits in MORE.items()]
        rows.append(row)
    header = ("recipe", "F1", "loss", "F1 minus default", "training loss", "seconds")
    return table(name or "Mean of the data sets", header, rows, NOTE)


def number(value: float, digits: int = 1, best: bool = False) -> Cell:
    return Cell(f"{value:.{digits}f}", value, best)
