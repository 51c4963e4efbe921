"""One run: a model, a method, the few examples, the score. To be read from top to bottom."""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, set_seed

from peft_fishdip.tasks import Episode, Task, candidate_losses, evaluate, likelihood_accuracy, to_features

from .fitting import Features, Trace, fit, is_fish_dip, mean_loss
from .in_context import InContextTask
from .masks import shares
from .memory import MemoryMeter
from .problems import Problem
from .settings import Experiment, SettingsError, TrainingParams, one_line, read_adapter_config


@dataclass
class Outcome:
    """What a run measured."""

    scores: dict[str, float] = field(default_factory=dict)
    """Metrics of the task on the test examples, and `loss`, -log p in nats per target token."""
    trace: Trace = field(default_factory=Trace)
    num_trainable_params: int = 0
    num_total_params: int = 0
    eval_time: float = 0.0
    """Seconds."""
    file_size: int = 0
    """Bytes of the saved adapter, or of the whole model."""
    peak_memory: int = 0
    """Bytes, see MemoryMeter."""
    adapter_config: dict[str, Any] | None = None


def run(experiment: Experiment, problem: Problem, base_model: str, seed: int, device: torch.device) -> Outcome:
    """Fine-tune the base model as the experiment says, on the labelled examples, and score it on the test ones."""
    params = experiment.params
    memory = MemoryMeter(device)
    set_seed(seed)
    model, tokenizer = load_model(base_model)
    outcome = Outcome()
    if experiment.adapter is not None:
        config = read_adapter_config(experiment.adapter)
        model = get_peft_model(model, config)
        outcome.adapter_config = model.peft_config["default"].to_dict()
    model.to(device)
    outcome.num_trainable_params = sum(x.numel() for x in model.parameters() if x.requires_grad)
    outcome.num_total_params = sum(x.numel() for x in model.parameters())

    subject = Subject(model, tokenizer, problem.task, params, seed, device, outcome)
    if params.in_context_examples:
        outcome.num_trainable_params = 0
        outcome.scores = in_context_scores(subject, problem)
    else:
        if params.mask == "random" and is_fish_dip(model):
            outcome.trace.updates.append({"step": 0, "shares": shares(model.base_model.mask())})
            warnings.filterwarnings("ignore", message=".*no example", category=UserWarning)
        if problem.episodes:
            subject.fit(problem.train, params.meta_steps)
            outcome.scores = averages([episode_scores(subject, episode) for episode in problem.episodes])
        else:
            subject.fit(problem.train, params.steps)
            outcome.scores = subject.scores(problem.test)
        outcome.file_size = saved_size(model)
    outcome.peak_memory = memory.growth()
    return outcome


def load_model(base_model: str) -> tuple[Any, Any]:
    """The base model in float32 and its tokenizer, from the Hub or a folder.

    Raises:
        SettingsError: there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_model)
        return AutoModelForSeq2SeqLM.from_pretrained(base_model, dtype=torch.float32), tokenizer
    except (OSError, ValueError) as error:
        raise SettingsError(f"--model {base_model}: {one_line(error)}") from error


@dataclass
class Subject:
    """A model with all that its training and its evaluation need."""

    model: Any
    tokenizer: Any
    task: Task[Any]
    params: TrainingParams
    seed: int
    device: torch.device
    outcome: Outcome

    def features(self, examples: list[Any]) -> Features:
        length = self.params.max_length
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*see `task.encode`")
            return to_features(self.task, self.tokenizer, examples, max_source_length=length, max_target_length=length)

    def fit(self, examples: list[Any], steps: int) -> None:
        fit(self.model, self.features(examples), self.params, steps, self.seed, self.device, self.outcome.trace)

    def scores(self, examples: list[Any]) -> dict[str, float]:
        """Of generated texts, by the task's metrics."""
        started = time.perf_counter()
        length, batch_size = self.params.max_length, self.params.eval_batch_size
        scores = evaluate(
            self.model,
            self.tokenizer,
            self.task,
            examples,
            batch_size=batch_size,
            max_source_length=length,
            max_new_tokens=length,
            progress=False,
        )
        loss = mean_loss(self.model, self.features(examples), batch_size, self.device)
        self.outcome.eval_time += time.perf_counter() - started
        return {**scores, "loss": loss}

    def choices(self, episode: Episode, task: Task[Any]) -> dict[str, float]:
        """Of the relation whose text is the most likely one among those of the episode."""
        started = time.perf_counter()
        losses = candidate_losses(
            self.model,
            self.tokenizer,
            task,  # type: ignore[arg-type]
            episode.query,
            episode.labels,
            batch_size=self.params.eval_batch_size,
            max_length=self.params.max_length,
            progress=False,
        )
        gold = [example.label for example in episode.query]
        own = [row[episode.labels.index(label)] for row, label in zip(losses, gold, strict=True) if label]
        self.outcome.eval_time += time.perf_counter() - started
        return {"accuracy": likelihood_accuracy(losses, episode.labels, gold), "loss": mean(own)}


def episode_scores(subject: Subject, episode: Episode) -> dict[str, float]:
    """Go on from what meta-training left, on the support examples of an episode."""
    learner = copy.copy(subject)
    learner.model = copy.deepcopy(subject.model)
    learner.fit(list(episode.support), subject.params.steps)
    return learner.choices(episode, subject.task)


def in_context_scores(subject: Subject, problem: Problem) -> dict[str, float]:
    """Scores without any training; the labelled examples stand before each source."""
    params = subject.params

    def shown(examples: list[Any]) -> InContextTask:
        return InContextTask(
            subject.task,
            examples,
            subject.tokenizer,
            k=params.in_context_examples,
            max_length=params.max_length,
            seed=subject.seed,
        )

    if problem.episodes:
        return averages([subject.choices(episode, shown(list(episode.support))) for episode in problem.episodes])
    subject.task = shown(problem.train)
    return subject.scores(problem.test)


def averages(rows: list[Mapping[str, float]]) -> dict[str, float]:
    return {name: mean(row[name] for row in rows) for name in rows[0]}


def saved_size(model: Any) -> int:
    """Bytes of the files that `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
