"""A model with all that its training and its evaluation need."""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from peft_fishdip.tasks import (
    Episode,
    Task,
    calibration_of,
    candidate_losses,
    choose,
    predict,
    self_train,
    task_type,
    to_features,
)
from peft_fishdip.tasks.coders import coder_for
from peft_fishdip.tasks.families import CAUSAL, SEQUENCES

from .example_counts import example_counts, right
from .features import Collate, Features, collator_for
from .fitting import fit, mean_loss, precision
from .forgetting import ForgettingMeter
from .in_context import WHOLE
from .memory import MemoryMeter
from .outcome import Outcome
from .predictions import first_predictions
from .settings import TrainingParams


@dataclass
class TrainedModel:
    """A model that is trained and scored; what that costs is recorded in `outcome`."""

    model: Any
    tokenizer: Any
    task: Task[Any]
    params: TrainingParams
    seed: int
    device: torch.device
    memory: MemoryMeter
    outcome: Outcome
    forgetting: ForgettingMeter | None = None

    @property
    def source_length(self) -> int:
        """The most tokens of a source."""
        return self.params.in_context_length if self.params.in_context_examples else self.params.max_length

    @property
    def kind(self) -> str:
        """What the model does, by PEFT's name."""
        return task_type(self.model)

    @property
    def template(self) -> str | None:
        """Of the prompts of a decoder-only model; None for the one of the tasks."""
        return WHOLE if self.params.in_context_examples and self.kind == CAUSAL else None

    @property
    def collator(self) -> Collate:
        return collator_for(self.tokenizer, self.model)

    def copied(self) -> TrainedModel:
        """The same with a copy of the model, which can be trained further on its own."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        return other

    def features(self, examples: list[Any]) -> Features:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*; see `.*` for each")
            return to_features(
                self.task,
                self.tokenizer,
                examples,
                model=self.model,
                template=self.template,
                max_source_length=self.source_length,
                max_target_length=self.params.max_length,
            )

    def fit(self, examples: list[Any], steps: int) -> None:
        features, trace = self.features(examples), self.outcome.trace
        fit(self.model, features, self.params, steps, self.seed, self.device, trace, collator=self.collator)
        if not self.outcome.eval_time:
            self.outcome.fit_memory = self.memory.growth()

    def self_train(self, examples: list[Any], unlabelled: list[Any]) -> None:
        """Train in rounds, on labelled examples and on unlabelled ones, see `peft_fishdip.tasks.self_train`."""
        params, trace = self.params, self.outcome.trace
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*; see `.*` for each")
            warnings.filterwarnings("ignore", message="self-training stopped")  # which is noted
            found = self_train(
                self.model,
                self.tokenizer,
                self.task,
                examples,
                unlabelled,
                params.self_training_rounds,
                progress=False,
                steps=params.steps,
                tuning_steps=params.steps // 4,
                batch_size=params.batch_size,
                learning_rate=params.learning_rate,
                reweight=params.reweight,
                max_source_length=self.source_length,
                max_target_length=params.max_length,
                bf16=params.bf16,
                seed=self.seed,
            )
        trace.train_time += time.perf_counter() - started
        trace.step += params.steps + (len(found.rounds) - 1) * (params.steps + params.steps // 4)
        self.outcome.fit_memory = self.memory.growth()
        self.outcome.self_training = [record.to_dict() for record in found.rounds]
        self.outcome.notes += [found.stopped] if found.stopped else []

    def measure_forgetting(self) -> None:
        if self.forgetting:
            self.forgetting.after(self.model)

    def scores(self, examples: list[Any]) -> dict[str, float]:
        """The task's metrics of predictions, and the mean test loss."""
        started = time.perf_counter()
        with cuts_ignored(), precision(self.params, self.device):
            predictions = predict(
                self.model,
                self.tokenizer,
                self.task,
                examples,
                template=self.template,
                batch_size=self.params.eval_batch_size,
                max_source_length=self.source_length,
                max_new_tokens=self.params.max_length,
                progress=False,
            )
        scores = self.task.score(examples, predictions)
        self.outcome.add_counts(example_counts(self.task, examples, predictions, scores))
        self.outcome.predictions = first_predictions(self.task, examples, predictions)
        if calibration := calibration_of(self.task, examples, predictions):
            self.outcome.calibration_error = calibration.error
        batch_size = self.params.eval_batch_size
        with precision(self.params, self.device):
            loss = mean_loss(self.model, self.features(examples), batch_size, self.device, self.collator)
        self.outcome.eval_time += time.perf_counter() - started
        return {**scores, "loss": loss}

    def choices(self, episode: Episode) -> dict[str, float]:
        """Accuracy of choosing the most likely of the episode's relations, and the mean loss of the right ones."""
        started = time.perf_counter()
        with cuts_ignored(), precision(self.params, self.device):
            losses = candidate_losses(
                self.model,
                self.tokenizer,
                self.task,  # type: ignore[arg-type]
                episode.query,
                episode.labels,
                template=self.template,
                batch_size=self.params.eval_batch_size,
                max_length=self.source_length,
                progress=False,
            )
        self.outcome.eval_time += time.perf_counter() - started
        gold = [example.label for example in episode.query]
        own = sum(row[episode.labels.index(label)] for row, label in zip(losses, gold, strict=True))
        chosen = choose(losses, episode.labels)
        answers = [label == choice for label, choice in zip(gold, chosen, strict=True)]
        self.outcome.add_counts({"accuracy": right(answers)})
        self.outcome.predictions = self.outcome.predictions or first_predictions(self.task, episode.query, chosen)
        return {"accuracy": sum(answers) / len(answers), "loss": own / self.num_targets(episode)}

    def num_targets(self, episode: Episode) -> int:
        """Target tokens of the query; its texts, if the model classifies these."""
        if self.kind == SEQUENCES:
            return len(episode.query)
        task: Any = self.task
        targets = [task.candidate(example, example.label) for example in episode.query]
        return sum(map(len, coder_for(self.model, self.tokenizer, self.template).targets(targets)))

    def saved_size(self) -> int:
        """Bytes of the weight files that `save_pretrained` writes."""
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


@contextmanager
def cuts_ignored() -> Iterator[None]:
    """Within, cut sources and texts do not warn: models with little training do not end their texts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*\((source|output)_cut\)")
        yield


def averages(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: mean(row[name] for row in rows) for name in rows[0]}
