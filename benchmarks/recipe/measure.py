"""One JSON file per run; those that are there are not made again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, set_seed

from ..files import read_own, write_json
from ..fitting import fit
from ..machine import describe_machine
from ..outcome import Trace
from ..settings import SettingsError, TrainingParams, default_params
from .recipes import RECIPES, Recipe
from .tagging import FILES, Tagged, load_tagged, scores, to_features

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Settings:
    """What all runs have in common."""

    model: str
    """Of its folder or Hub id the last part."""
    num_train: int = 64
    most_words: int = 24
    """Longer training sentences are left out, so that a CPU is enough."""
    num_validation: int = 300
    steps: int = 200
    batch_size: int = 8
    warmup_share: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = 128

    def load(self, data_set: str, data: Path, seed: int) -> Tagged:
        return load_tagged(data_set, data, self.num_train, self.most_words, self.num_validation, seed)

    def params(self, recipe: Recipe) -> TrainingParams:
        own: dict[str, Any] = {key: value for key, value in asdict(self).items() if key in asdict(default_params())}
        own |= {"optimizer": recipe.optimizer, "learning_rate": recipe.rate, "early_stop_loss": 0.0}
        return default_params().updated(own, "benchmarks.recipe")


def measure(
    data: Path, model: str, output: Path, settings: Settings, data_sets: Sequence[str], seeds: Sequence[int]
) -> None:
    """Make all runs that the folder lacks: the first seed of everything, then the next.

    Raises:
        SettingsError: a data set is wrong, or the folder holds runs that were made with other settings.
    """
    for seed, name, recipe in ((s, d, r) for s in seeds for d in data_sets for r in RECIPES):
        path = output / name / f"{recipe.name}-seed-{seed}.json"
        run = {"data_set": name, "seed": seed, "recipe": asdict(recipe), "settings": asdict(settings)}
        if path.exists():
            if {key: read_own(path).get(key) for key in run} != run:
                raise SettingsError(f"{path} was made with other settings; choose another --output")
            continue
        found = figures(recipe, name, data, model, settings, seed)
        write_json(path, {**run, **found, "machine": describe_machine(CPU)})
        print(f"{name} seed {seed} {recipe.name}: F1 {100 * found['f1']:.1f}", file=sys.stderr, flush=True)


def figures(recipe: Recipe, name: str, data: Path, model_name: str, settings: Settings, seed: int) -> dict[str, Any]:
    """Train on a few sentences, and score on validation sentences."""
    tagged = settings.load(name, data, seed)
    params, trace = settings.params(recipe), Trace()
    set_seed(seed)  # of the new classifier, and of dropout
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    options: Any = {"num_labels": len(tagged.tags), "dtype": torch.float32}
    base = AutoModelForTokenClassification.from_pretrained(model_name, **options)
    train = to_features(tagged.train, tagged.tags, tokenizer, params.max_length)
    validation = to_features(tagged.validation, tagged.tags, tokenizer, params.max_length)
    model = recipe.adapted(base, seed)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    optimizer = recipe.make_optimizer(model, params)
    fit(model, train, params, params.steps, seed, CPU, trace, optimizer)
    f1, loss = scores(model, validation, tagged.validation, tagged.tags)
    return {
        "trained_entries": trained,
        "f1": f1,
        "validation_loss": loss,
        "training_loss": trace.metrics[-1]["train loss"],
        "training_losses": [row["train loss"] for row in trace.metrics],
        "overlaps": [update["mask_overlap"] for update in trace.updates],
        "train_seconds": trace.train_time,
        "update_seconds": trace.update_time,
    }


def read_runs(output: Path) -> Iterator[dict[str, Any]]:
    """All runs of a folder, in the order of data sets and files."""
    for name in FILES:
        for path in sorted((output / name).glob("*.json")):
            yield read_own(path)
