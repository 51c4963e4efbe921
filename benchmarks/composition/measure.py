"""One JSON file per language and seed, and one adapter per delta; those that are there are not made again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoConfig, set_seed

from peft_fishdip import FishDipConfig

from ..files import read_own, write_json
from ..fitting import fit
from ..machine import describe_machine
from ..outcome import Trace
from ..recipe.sentences import Sentences
from ..recipe.tagging import Tagger
from ..settings import SettingsError, TrainingParams, default_params, one_line
from .language import Language
from .sentences import LANGUAGES, load_source, load_target

CPU = torch.device("cpu")
Mask = Mapping[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """What all runs have in common."""

    model: str
    """Of its folder or Hub id the last part."""
    source: str = "conll04-ner"
    num_train: int = 320
    most_words: int = 24
    """Longer labelled training sentences are left out, so that a CPU is enough."""
    num_raw: int = 320
    raw_length: int = 32
    """Tokens of a raw sentence; what is longer is cut."""
    num_validation: int = 100
    num_held_out: int = 40
    """Of these, so many are guessed by the masked language model."""
    task_steps: int = 60
    language_steps: int = 40
    batch_size: int = 8
    learning_rate: float = 1e-3
    density: float = 0.05
    num_samples: int = 8
    """Sentences whose gradients choose a mask, once, before the first step."""

    def params(self, steps: int) -> TrainingParams:
        own: Any = {"steps": steps, "batch_size": self.batch_size, "learning_rate": self.learning_rate}
        fixed = {"optimizer": "adamw", "early_stop_loss": 0.0, "warmup_share": 0.0, "weight_decay": 0.0}
        # "random": masks are chosen here, and not by `fit`
        return default_params().updated({**own, **fixed, "mask": "random"}, "benchmarks.composition")

    def adapter_config(self, base: Any, seed: int, new: list[str] | None = None) -> FishDipConfig:
        """Of a delta to the encoder alone, which both kinds of model have; `new` modules are trained whole."""
        return FishDipConfig(
            target_modules=rf"{base.base_model_prefix}\..*",
            modules_to_save=new,
            density=self.density,
            update_interval=None,
            auto_update=False,
            sample_selection="random",
            num_samples=self.num_samples,
            seed=seed,
        )


@dataclass(frozen=True)
class Workplace:
    """Where data, the base model, adapters and results are."""

    data: Path
    model: str
    output: Path
    settings: Settings

    def source(self, seed: int) -> Sentences:
        own = self.settings
        return load_source(own.source, self.data, own.num_train, own.most_words, own.num_validation, seed)

    def made_once(self, path: Path, what: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a file says, which is made if it is not there.

        Raises:
            SettingsError: it was made with other settings.
        """
        own = {**what, "settings": asdict(self.settings)}
        if path.exists():
            found = read_own(path)
            if {key: found.get(key) for key in own} != own:
                raise SettingsError(f"{path} was made with other settings; choose another --output")
            return found
        started = time.perf_counter()
        figures = make()
        content = {**own, **figures, "seconds": time.perf_counter() - started, "machine": describe_machine(CPU)}
        write_json(path, content)
        return content

    def task_adapter(self, seed: int) -> Path:
        """The adapter of the task, trained on the source alone, with its classifier."""
        folder = self.output / "adapters" / f"task-seed-{seed}"

        def make() -> dict[str, Any]:
            set_seed(seed)  # of the new classifier, and of dropout
            sentences = self.source(seed)
            tagger = tagger_of(self.model, sentences)
            config = self.settings.adapter_config(tagger.model, seed, ["classifier"])
            model = get_peft_model(tagger.model, config)
            train_task(model, tagger, sentences, self.settings, seed)
            model.save_pretrained(str(folder))
            return {"f1": tagger.scores(model, sentences.validation)[0]}

        self.made_once(folder.with_suffix(".json"), {"source": self.settings.source, "seed": seed}, make)
        return folder

    def language_adapter(self, language: str, seed: int) -> Path:
        """The adapter of a language, trained on its raw sentences."""
        folder, own = self.output / "adapters" / f"{language}-seed-{seed}", self.settings

        def make() -> dict[str, Any]:
            set_seed(seed)  # of a new head, and of dropout
            target = load_target(language, self.data, own.num_raw, own.num_validation, own.num_held_out, seed)
            lm = Language(self.model, own.raw_length)
            config = own.adapter_config(lm.base, seed)
            model = lm.trained(target.raw, config, own.params(own.language_steps), seed)
            model.save_pretrained(str(folder))
            with model.disable_adapter():
                without = lm.loss(model, target.held_out)
            return {"loss": lm.loss(model, target.held_out), "loss_without_delta": without}

        self.made_once(folder.with_suffix(".json"), {"language": language, "seed": seed}, make)
        return folder

    def run(self, language: str, seed: int) -> dict[str, Any]:
        """Entity F1 in a language with and without the delta of a language, and the overlap of the two supports."""
        target = load_target(language, self.data, 1, self.settings.num_validation, 0, seed)
        sentences, own = self.source(seed), self.language_adapter(language, seed)
        codes = [*LANGUAGES]
        other = codes[(codes.index(language) + 1) % len(codes)]
        tagger = tagger_of(self.model, sentences)
        model: Any = PeftModel.from_pretrained(tagger.model, self.task_adapter(seed))
        model.load_adapter(own, "language")
        model.load_adapter(self.language_adapter(other, seed), "other_language")
        tuner, f1 = model.base_model, {}
        tuner.add_weighted_adapter(["default", "language"], [1.0, 1.0], "sum")
        tuner.add_weighted_adapter(["default", "other_language"], [1.0, 1.0], "other")
        for arm, adapter in (("task", "default"), ("sum", "sum"), ("other", "other")):
            model.set_adapter(adapter)
            f1[arm] = tagger.scores(model, target.validation)[0]
        shared = overlap(tuner.mask("default"), tuner.mask("language"))
        return {"f1": f1, "overlap": shared, "other_language": other}


def measure(place: Workplace, languages: Sequence[str], seeds: Sequence[int]) -> None:
    """Make all runs that the folder lacks: the first seed of each language, then the next.

    Raises:
        SettingsError: a data set or the model is wrong, or the folder holds runs that were made with other settings.
    """
    for seed, language in ((seed, language) for seed in seeds for language in languages):
        path = place.output / language / f"seed-{seed}.json"
        there = path.exists()
        run = place.made_once(path, {"language": language, "seed": seed}, partial(place.run, language, seed))
        if not there:
            shown = ", ".join(f"{arm} {100 * f1:.1f}" for arm, f1 in run["f1"].items())
            print(f"{language} seed {seed}: F1 {shown}", file=sys.stderr, flush=True)


def tagger_of(name: str, sentences: Sentences) -> Tagger:
    """A tagger with a new classifier.

    Raises:
        SettingsError: it cannot be loaded, or is no encoder.
    """
    try:
        if AutoConfig.from_pretrained(name).is_encoder_decoder:
            raise ValueError("it is an encoder-decoder model, and an encoder is needed")
        return Tagger(name, sentences)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--model {name!r}: {one_line(error)}") from error


def train_task(model: Any, tagger: Tagger, sentences: Sentences, settings: Settings, seed: int) -> None:
    """Choose the mask by the labelled sentences, and train it."""
    features, params = tagger.features(sentences.train), settings.params(settings.task_steps)
    model.base_model.update_mask(features, batch_size=params.batch_size)
    fit(model, features, params, params.steps, seed, CPU, Trace())


def overlap(mask: Mask, other: Mask) -> float:
    """Share of the entries of the smaller mask that the other one has, too."""
    common = sum(int(torch.isin(positions, other[name]).sum()) for name, positions in mask.items())
    return common / min(sum(map(len, mask.values())), sum(map(len, other.values())))


def read_runs(output: Path) -> Iterator[dict[str, Any]]:
    """All runs of a folder, by language and seed."""
    for language in LANGUAGES:
        yield from (read_own(path) for path in sorted((output / language).glob("seed-*.json")))


def read_adapters(output: Path) -> Iterator[dict[str, Any]]:
    """What is known of each delta that was trained for itself."""
    yield from (read_own(path) for path in sorted((output / "adapters").glob("*-seed-*.json")))
