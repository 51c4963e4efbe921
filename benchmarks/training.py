"""One run: a model, a method, the few examples, the score. To be read from top to bottom."""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from collections.abc import Iterable
from dataclasses import fields, replace
from statistics import mean
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from torch import Tensor
from transformers import set_seed

from peft_fishdip.tasks import Episode, task_type
from peft_fishdip.tasks.families import CAUSAL
from peft_fishdip.tasks.lengths import source_room

from .adaptation import adapted_config
from .experiment import Experiment
from .forgetting import ForgettingMeter
from .in_context import SLOT, InContextTask, ending_at_lines
from .lottery import steps_of_mask, with_ticket
from .mask_updates import is_fish_dip, with_enough_examples
from .masks import shares
from .memory import MemoryMeter
from .outcome import Outcome
from .plain_text import PlainText
from .pretrained import load_model
from .problems import Problem, Protocol, problem
from .settings import TrainingParams
from .trained_model import TrainedModel, averages


def run(
    experiment: Experiment,
    problem: Problem,
    base_model: str,
    seed: int,
    device: torch.device,
    plain: PlainText | None = None,
) -> Outcome:
    """Fine-tune the base model as the experiment says, on the labelled examples, and score it on the test ones.

    Args:
        plain: texts by which forgetting is measured; None if it is not.
    """
    meter = ForgettingMeter(plain, base_model, device) if plain else None
    memory = MemoryMeter(device)
    set_seed(seed)
    base = load_model(base_model, problem.task)
    model, tokenizer, _ = base
    outcome = Outcome(task_type=task_type(model), num_base_params=count(model.parameters()))
    if meter:
        meter.before(base)
        outcome.forgetting = meter.found
    trained = TrainedModel(model, tokenizer, problem.task, experiment.params, seed, device, memory, outcome, meter)
    if experiment.adapter is not None:
        config, outcome.notes = adapted_config(experiment, base)
        config = with_enough_examples(seeded(config, seed), problem)
        if experiment.params.mask == "lottery":
            model.to(device)
            model = with_ticket(trained, config, problem.train, steps_of_mask(first_steps(experiment.params, problem)))
        else:
            model = get_peft_model(model, config)
        outcome.adapter_config = model.peft_config["default"].to_dict()
        trained.model = model
    model.to(device)
    outcome.num_total_params = count(model.parameters())
    if experiment.params.in_context_examples:
        outcome.scores = in_context_scores(trained, problem)
        if meter:
            meter.unchanged()
    else:
        outcome.num_trainable_params = count(x for x in model.parameters() if x.requires_grad)
        outcome.scores = trained_scores(trained, problem)
    outcome.peak_memory = memory.growth()
    return outcome


def seeded(config: PeftConfig, seed: int) -> PeftConfig:
    """The config with the seed of the run wherever its method draws something by a seed of its own."""
    for field in fields(config):
        if re.search("seed|prng", field.name):
            setattr(config, field.name, seed)
    return config


def first_steps(params: TrainingParams, problem: Problem) -> int:
    """Steps on the training examples: all, or those of meta-training where episodes follow."""
    return params.meta_steps if problem.episodes else params.steps


def trained_scores(trained: TrainedModel, problem: Problem) -> dict[str, float]:
    """Scores after training; of episodes their mean, each after meta-training and its own few examples."""
    params, outcome = trained.params, trained.outcome
    if params.mask == "random" and is_fish_dip(trained.model):
        outcome.trace.updates.append({"step": 0, "shares": shares(trained.model.base_model.mask())})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the learning rate", category=UserWarning)  # rates are searched for
        if params.mask == "random":  # on purpose
            warnings.filterwarnings("ignore", message=".*no example", category=UserWarning)
        steps = first_steps(params, problem)
        if params.self_training_rounds and not problem.episodes:
            trained.self_train(problem.train, problem.unlabelled)
        else:
            trained.fit(problem.train, steps - steps_of_mask(steps) if params.mask == "lottery" else steps)
        if problem.episodes:
            return averages([episode_scores(trained, episode) for episode in problem.episodes])
        trained.measure_forgetting()
        outcome.file_size = trained.saved_size()
        return trained.scores(problem.test)


def episode_scores(trained: TrainedModel, episode: Episode) -> dict[str, float]:
    """Go on from what meta-training left, on the support examples of an episode."""
    learner = trained.copied()
    learner.fit(list(episode.support), trained.params.steps)
    learner.measure_forgetting()
    trained.outcome.file_size = trained.outcome.file_size or learner.saved_size()
    return learner.choices(episode)


def in_context_scores(trained: TrainedModel, problem: Problem) -> dict[str, float]:
    """Scores without any training; labelled examples stand before each source, of an episode all."""
    numbers: list[int] = []
    params, model, tokenizer = trained.params, trained.model, trained.tokenizer
    most = source_room(model, tokenizer, trained.source_length, params.max_length)

    def shown(examples: list[Any], queries: list[Any], k: int | None) -> TrainedModel:
        task = InContextTask(
            trained.task,
            examples,
            tokenizer,
            k=k,
            max_length=most,
            seed=trained.seed,
            slot=SLOT if SLOT in tokenizer.get_vocab() and trained.kind != CAUSAL else "",
            lines=trained.kind == CAUSAL,
        )
        numbers.extend(len(task.demonstrations(query)) for query in queries)
        other = copy.copy(trained)
        other.task = task
        return other

    if problem.episodes:
        rows = [shown(list(e.support), list(e.query), None).choices(e) for e in problem.episodes]
        scores = averages(rows)
    else:
        with ending_at_lines(model, tokenizer):
            scores = shown(problem.train, problem.test, params.in_context_examples).scores(problem.test)
    trained.outcome.in_context_shown = mean(numbers)
    return scores


def count(parameters: Iterable[Tensor]) -> int:
    """Entries."""
    return sum(parameter.numel() for parameter in parameters)


def warm_up(experiment: Experiment, base_model: str, device: torch.device) -> None:
    """Do two steps that are not measured, so that what a process allocates once is not counted in its first run."""
    short = experiment.params.updated({"steps": 2, "batch_size": 2, "max_length": 64}, "warm-up")
    few = problem("generated", None, Protocol(max_train=4, max_test=2), seed=0)
    with contextlib.suppress(Exception):  # if there is anything wrong, the runs themselves will tell
        run(replace(experiment, params=short), few, base_model, 0, device)
