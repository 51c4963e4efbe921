"""One JSON file per run; those that are there are not made again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, set_seed

from peft_fishdip.tasks.families import is_encoder

from ..files import read_own, write_json
from ..fitting import fit
from ..machine import describe_machine
from ..outcome import Trace
from ..settings import SettingsError, TrainingParams, default_params, one_line
from .recipes import RECIPES, TEMPLATES, Recipe
from .sentences import FILES, Sentences, load_sentences
from .tagging import Tagger
from .writing import Decoder, Writer

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Settings:
    """What all runs have in common."""

    model: str
    """Of its folder or Hub id the last part."""
    kind: str
    """Of the model: tagger, writer or decoder."""
    num_train: int = 64
    most_words: int = 24
    """Longer training sentences are left out, so that a CPU is enough."""
    num_validation: int = 300
    steps: int = 200
    batch_size: int = 8
    warmup_share: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    bf16: bool = False

    def load(self, data_set: str, data: Path, seed: int) -> Sentences:
        return load_sentences(data_set, data, self.num_train, self.most_words, self.num_validation, seed)

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
    for seed, name, recipe in ((s, d, r) for s in seeds for d in data_sets for r in RECIPES[settings.kind]):
        path = output / name / f"{recipe.name}-seed-{seed}.json"
        run = {"data_set": name, "seed": seed, "recipe": asdict(recipe), "settings": asdict(settings)}
        if path.exists():
            if {key: read_own(path).get(key) for key in run} != run:
                raise SettingsError(f"{path} was made with other settings; choose another --output")
            continue
        found = figures(recipe, name, data, model, settings, seed)
        write_json(path, {**run, **found, "machine": describe_machine(CPU)})
        print(f"{name} seed {seed} {recipe.name}: F1 {100 * found['f1']:.1f}", file=sys.stderr, flush=True)


def kind_of(model: str) -> type[Tagger] | type[Writer]:  # a Decoder is a Writer
    """How a model says where entities stand.

    Raises:
        SettingsError: it cannot be loaded.
    """
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--model {model!r}: {one_line(error)}") from error
    if config.is_encoder_decoder:
        return Writer
    return Tagger if is_encoder(config) else Decoder


def figures(recipe: Recipe, name: str, data: Path, model_name: str, settings: Settings, seed: int) -> dict[str, Any]:
    """Train on a few sentences, and score on validation sentences."""
    sentences = settings.load(name, data, seed)
    params, trace = settings.params(recipe), Trace()
    set_seed(seed)  # of a new classifier, and of dropout
    prompt = (TEMPLATES[recipe.template],) if recipe.template else ()
    base = kind_of(model_name)(model_name, sentences, *prompt)
    train = base.features(sentences.train)
    model = recipe.adapted(base.model, base.task_type, seed)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    optimizer = recipe.make_optimizer(model, params)
    fit(model, train, params, params.steps, seed, CPU, trace, optimizer, base.collator)
    f1, loss = base.scores(model, sentences.validation)
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
