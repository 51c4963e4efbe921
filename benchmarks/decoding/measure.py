"""One JSON file per run; those that are there are not made again."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import set_seed

from peft_fishdip.tasks import Decoded, calibration_of, predict, task_type, to_features
from peft_fishdip.tasks.families import CAUSAL, SEQ2SEQ

from ..features import collator_for
from ..files import read_own, write_json
from ..fitting import fit
from ..machine import describe_machine
from ..outcome import Trace
from ..pretrained import load_model
from ..recipe.recipes import DEFAULT
from ..settings import SettingsError, TrainingParams, default_params
from ..trained_model import cuts_ignored
from .sentences import DATA_SETS, Sentences, load_sentences

CPU = torch.device("cpu")
WAYS = ("free", "constrained")
UNREADABLE = ("format_error", "label_error", "entity_error")
"""Problems of outputs that cannot be parsed, or name no known label or entity."""
UNALIGNED = ("wrong_reconstruction", "alignment_error", "partial_token")
"""Problems of outputs that do not repeat the sentence."""


@dataclass(frozen=True)
class Settings:
    """What all runs have in common."""

    model: str
    """Of its folder or Hub id the last part."""
    num_train: int = 64
    most_words: int = 24
    """Longer training sentences are left out, so that a CPU is enough."""
    num_validation: int = 100
    steps: int = 200
    rounds: int = 3
    """How often all validation sentences are predicted in each way, in turn."""
    batch_size: int = 8
    eval_batch_size: int = 32
    max_source_length: int = 256
    max_new_tokens: int = 256
    warmup_share: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("num_train", "num_validation", "steps", "rounds"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")

    def load(self, data_set: str, data: Path, seed: int) -> Sentences:
        return load_sentences(data_set, data, self.num_train, self.most_words, self.num_validation, seed)

    @property
    def params(self) -> TrainingParams:
        own: dict[str, Any] = {key: value for key, value in asdict(self).items() if key in asdict(default_params())}
        own |= {"optimizer": DEFAULT.optimizer, "learning_rate": DEFAULT.rate, "early_stop_loss": 0.0}
        return default_params().updated(own, "benchmarks.decoding")


def measure(
    data: Path, model: str, output: Path, settings: Settings, data_sets: Sequence[str], seeds: Sequence[int]
) -> None:
    """Make all runs that the folder lacks: the first seed of everything, then the next.

    Raises:
        SettingsError: a data set or the model is wrong, or the folder holds runs that were made with other settings.
    """
    for seed, name in ((seed, name) for seed in seeds for name in data_sets):
        path = output / name / f"seed-{seed}.json"
        run = {"data_set": name, "seed": seed, "settings": asdict(settings)}
        if path.exists():
            if {key: read_own(path).get(key) for key in run} != run:
                raise SettingsError(f"{path} was made with other settings; choose another --output")
            continue
        found = figures(settings.load(name, data, seed), model, settings, seed)
        write_json(path, {**run, **found, "machine": describe_machine(CPU)})
        shares = ", ".join(f"{way} {found['ways'][way]['malformed'] / found['num_validation']:.0%}" for way in WAYS)
        print(f"{name} seed {seed}: malformed {shares}", file=sys.stderr, flush=True)


def figures(sentences: Sentences, model_name: str, settings: Settings, seed: int) -> dict[str, Any]:
    """Train on a few sentences, and predict validation sentences in both ways."""
    set_seed(seed)  # of dropout
    task = sentences.task
    base, tokenizer, _ = load_model(model_name, task)
    kind = task_type(base)
    if kind not in (SEQ2SEQ, CAUSAL):
        raise SettingsError(f"--model {model_name}: an encoder writes no text; choose a T5 or a causal LM")
    with cuts_ignored():
        train = to_features(task, tokenizer, sentences.train, model=base, max_source_length=settings.max_source_length)
    model = DEFAULT.adapted(base, kind, seed)
    trace = Trace()
    params = settings.params
    fit(model, train, params, params.steps, seed, CPU, trace, collator=collator_for(tokenizer, base))
    passes: dict[str, list[Pass]] = {way: [] for way in WAYS}
    for number in range(settings.rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            passes[way].append(predicted(model, tokenizer, sentences, settings, way))
    last = {way: some[-1].results for way, some in passes.items()}
    calibration = calibration_of(task, sentences.validation, last["constrained"])
    return {
        "num_validation": len(sentences.validation),
        "training_loss": trace.metrics[-1]["train loss"],
        "train_seconds": trace.train_time,
        "ways": {
            way: {
                **outputs(last[way]),
                "scores": dict(task.score(sentences.validation, last[way])),
                "seconds": [each.seconds for each in passes[way]],
                "cpu_seconds": [each.cpu_seconds for each in passes[way]],
            }
            for way in WAYS
        },
        "calibration": None
        if calibration is None
        else {"error": calibration.error, "bins": [asdict(each) for each in calibration.bins]},
    }


class Pass(NamedTuple):
    """Predictions for all validation sentences, and what they took."""

    results: list[Decoded[Any]]
    seconds: float
    cpu_seconds: float
    """Of this process, which other work on the machine disturbs less."""


def predicted(model: Any, tokenizer: Any, sentences: Sentences, settings: Settings, way: str) -> Pass:
    options: Any = {
        "batch_size": settings.eval_batch_size,
        "max_source_length": settings.max_source_length,
        "max_new_tokens": settings.max_new_tokens,
        "constrained": way == "constrained",
        "windows": False,
        "progress": False,
    }
    with cuts_ignored():
        begun, cpu_begun = time.perf_counter(), time.process_time()
        results = predict(model, tokenizer, sentences.task, sentences.validation, **options)
        return Pass(results, time.perf_counter() - begun, time.process_time() - cpu_begun)


def outputs(results: Sequence[Decoded[Any]]) -> dict[str, Any]:
    """How many outputs are malformed, and how many have each kind of problem."""
    kinds = [{problem.kind for problem in result.problems} for result in results]
    return {
        "malformed": sum(bool(found & {*UNREADABLE, *UNALIGNED}) for found in kinds),
        "unreadable": sum(bool(found & {*UNREADABLE}) for found in kinds),
        "unaligned": sum(bool(found & {*UNALIGNED}) for found in kinds),
        "cut": sum("output_cut" in found for found in kinds),
        "problems": dict(sorted(Counter(kind for found in kinds for kind in found).items())),
    }


def read_runs(output: Path) -> Iterator[dict[str, Any]]:
    """All runs of a folder, in the order of data sets and files."""
    for name in DATA_SETS:
        for path in sorted((output / name).glob("*.json")):
            yield read_own(path)
