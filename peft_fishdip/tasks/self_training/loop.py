"""The rounds of a self-training, to be read from top to bottom."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeVar

import torch

from ..base import Decoded, Task
from ..features import to_features
from ..prompts import Template
from .adapters import STUDENT, adapter_of, add_student, remove_student, replace_adapter
from .data import Split, split
from .identity import settings_of
from .options import SelfTrainingOptions
from .pseudo import agreement, label_texts, main_score, pseudo_labels
from .records import RoundRecord
from .store import Store, opened
from .training import Features, Learner

E = TypeVar("E")


@dataclass(frozen=True)
class SelfTrained:
    """What `self_train` gives.

    Attributes:
        model: the one that was given; its adapter is the best teacher.
        rounds: the record of each round, the first teacher included.
        best: the round of that teacher, which has the highest score on the held-out examples; of equal ones the first.
        stopped: why there are fewer rounds than were asked for; "" if there are as many.
    """

    model: Any
    rounds: tuple[RoundRecord, ...]
    best: int
    stopped: str = ""

    def __str__(self) -> str:
        lines = [*map(str, self.rounds), self.stopped, f"the best teacher is of round {self.best}"]
        return "\n".join(line for line in lines if line)

    def to_dict(self) -> dict[str, Any]:
        """The rounds in numbers, texts, lists and dicts."""
        return {"rounds": [x.to_dict() for x in self.rounds], "best": self.best, "stopped": self.stopped}


def self_train(
    model: Any,
    tokenizer: Any,
    task: Task[E],
    labelled: Sequence[E],
    unlabelled: Sequence[E | str | Sequence[str]],
    rounds: int = 2,
    *,
    folder: str | PathLike[str] | None = None,
    template: Template | None = None,
    chat: bool = False,
    progress: bool = True,
    **options: Any,
) -> SelfTrained:
    """Train the adapter of a model on labelled examples, and on unlabelled texts that it labels itself.

    The first teacher learns from the labelled examples, but for some that are held out. In each round the teacher
    labels the unlabelled texts. A student, a new adapter of the same config on the same frozen base, is warmed up by
    distilling the teacher, learns from the pseudo-labels, which are weighed by how much each would lower the loss of
    held-out examples, and is tuned on the labelled ones; it is the next teacher. This is LiST (Wang et al., Findings of
    NAACL 2022) with the weights of Ren et al. (ICML 2018), see weights.py.

    Args:
        model: a PeftModel from `load_model` and `get_peft_model`, with one new adapter that is active. In the end this
            adapter is the best teacher. After an error it is the last teacher that was complete, if there is any.
        tokenizer: that of the model.
        task: what is learnt.
        labelled: records of the task.
        unlabelled: raw texts, tokens or records, whose labels are not looked at. Blank ones, and those that are equal
            to another one or to a labelled example, are left out.
        rounds: how many students there are, one after another.
        folder: of the rounds that are done, from which the same call goes on; None: nothing is kept.
        template, chat: as in `to_features`.
        progress: show bars on stderr.
        options: fields of `SelfTrainingOptions`, such as `steps`.

    Raises:
        ValueError: an argument is not as it must be, there are too few labelled examples or no unlabelled text, or the
            folder is damaged or of another self-training; the message names it and the remedy.
        OSError: a file cannot be read or written.

    Where a teacher finds nothing in any text, or none of its labels can be kept, a warning says so and no round
    follows.
    """
    if type(rounds) is not int or rounds < 1:
        raise ValueError(f"rounds={rounds!r}: give a whole number above 0")
    chosen = SelfTrainingOptions(**options)
    adapter = adapter_of(model)
    data = split(task, labelled, unlabelled, chosen.held_out_share, chosen.seed)
    config = copy.deepcopy(model.peft_config[adapter])
    settings = settings_of(model, adapter, config, task, [*labelled], data.texts, chosen, template, chat)
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with opened(folder) as store, torch.random.fork_rng(devices):
        store.begin(settings)
        training = Training(
            model, tokenizer, task, data, chosen, adapter, config, store, {"template": template, "chat": chat}, progress
        )
        return training.run(rounds)


@dataclass
class Training:
    """Everything that the rounds share."""

    model: Any
    tokenizer: Any
    task: Task[Any]
    data: Split[Any]
    options: SelfTrainingOptions
    adapter: str
    config: Any
    """Of the adapter, before it was trained."""
    store: Store
    prompts: dict[str, Any]
    progress: bool

    def run(self, rounds: int) -> SelfTrained:
        """All rounds that are not done yet."""
        records = self.store.records(rounds)
        stopped = ""
        try:
            if not records:
                records.append(self.first_teacher())
            train, held_out = self.features(self.data.train), self.features(self.data.held_out)
            self.load(len(records) - 1)
            found = self.predictions(self.data.texts) if len(records) <= rounds else []
            for number in range(len(records), rounds + 1):
                labels = pseudo_labels(self.task, found, self.options.min_confidence)
                stopped = self.why_stopped(number, labels.num_answers, labels.dropped)
                if stopped:
                    warnings.warn(stopped, stacklevel=3)
                    break
                torch.manual_seed(self.options.seed + number)
                add_student(self.model, self.config)
                features = self.features(labels.kept)
                weights, skipped = self.train_student(number, features, train, held_out)
                before, found = found, self.predictions(self.data.texts)
                record = RoundRecord(
                    number,
                    *self.scores(),
                    num_texts=len(self.data.texts),
                    num_kept=len(labels.kept),
                    dropped=labels.dropped,
                    num_answers=labels.num_answers,
                    weights=tuple(weights),
                    num_skipped=skipped,
                    agreement=agreement(self.task, before, found),
                )
                self.store.add(self.model, STUDENT, record)
                records.append(record)
                self.load(number)
        except BaseException:
            if self.adapter not in self.model.peft_config:  # it was being replaced
                self.load(len(records) - 1)
            remove_student(self.model, self.adapter)
            raise
        best = max(range(len(records)), key=lambda number: (records[number].score, -number))
        if best != len(records) - 1:
            self.load(best)
        self.model.eval()
        return SelfTrained(self.model, tuple(records), best, stopped)

    def first_teacher(self) -> RoundRecord:
        """Train the adapter on the labelled examples that are not held out."""
        torch.manual_seed(self.options.seed)
        learner = self.learner(0, self.options.steps, "First teacher")
        try:
            learner.learn(self.features(self.data.train), self.options.steps)
        finally:
            learner.close()
        record = RoundRecord(0, *self.scores())
        self.store.add(self.model, self.adapter, record)
        return record

    def train_student(
        self, number: int, features: Features, train: Features, held_out: Features
    ) -> tuple[list[float | None], int]:
        """Train the active adapter; returns what `learn_weighted` does."""
        own = self.options
        learner = self.learner(number, own.steps + own.tuning_steps, f"Student {number}")
        try:
            learner.distil(features, self.adapter, STUDENT, own.warmup_steps)
            found = learner.learn_weighted(features, held_out, own.steps - own.warmup_steps)
            learner.learn(train, own.tuning_steps)
        finally:
            learner.close()
        return found

    def learner(self, number: int, steps: int, title: str) -> Learner:
        seed = self.options.seed + number
        return Learner(self.model, self.tokenizer, self.options, steps, seed, title, self.progress)

    def load(self, number: int) -> None:
        """Make the teacher of a round the adapter of the model, as it is on disk: a run that goes on is then exact."""
        replace_adapter(self.model, self.adapter, self.config, self.store.place(number))

    def features(self, examples: Sequence[Any]) -> Features:
        lengths: Any = {name: getattr(self.options, name) for name in ("max_source_length", "max_target_length")}
        options = {**self.prompts, **lengths, "windows": True}
        return to_features(self.task, self.tokenizer, examples, model=self.model, **options)

    def predictions(self, examples: Sequence[Any]) -> list[Decoded[Any]]:
        """Of the active adapter."""
        options = {**self.prompts, "max_source_length": self.options.max_source_length, "progress": self.progress}
        return label_texts(self.model, self.tokenizer, self.task, examples, **options)

    def scores(self) -> tuple[dict[str, float], float]:
        """Of the active adapter on the held-out examples: all of them, and the one that decides."""
        held_out = self.data.held_out
        scores = {k: float(v) for k, v in self.task.score(held_out, self.predictions(held_out)).items()}
        return scores, main_score(scores)

    def why_stopped(self, number: int, num_answers: int, dropped: dict[str, int]) -> str:
        """Why there is nothing to learn from a teacher; "" if there is something."""
        if num_answers:
            return ""
        why = ", ".join(f"{kind} {count}" for kind, count in dropped.items())
        why = f" (left out: {why})" if why else ""
        return (
            f"self-training stopped before round {number}, and the teachers so far are kept: the teacher finds nothing "
            f"in the {len(self.data.texts)} unlabelled texts{why}. Give more labelled examples or more steps"
        )
