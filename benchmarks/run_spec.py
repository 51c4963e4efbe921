"""One method on one data set under one protocol: the specification of its runs, and the runs themselves."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .experiment import Experiment
from .jobs import Job
from .outcome import Outcome
from .plain_text import PlainText
from .problems import Problem, Protocol
from .rates import best_rate, trial_row
from .results import density_in_the_end, read_result, write_result
from .settings import one_line
from .training import run


@dataclass(frozen=True, eq=False)
class RunSpec:
    """All runs of one experiment on one data set under one protocol."""

    output: Path
    base_model: str
    base_digest: str
    experiment: Experiment
    protocol: Protocol
    problems: Mapping[int, Problem]
    """By seed."""
    rates: Sequence[float]
    """Learning rates to choose from; empty if there is nothing to choose."""
    trial: Problem | None
    """The problem by which a learning rate is chosen: training examples of the first seed only."""
    device: torch.device
    plain: PlainText | None = None
    """Texts by which forgetting is measured in the runs that are reported; None if it is not."""
    reason: str = ""
    """Why these runs are not possible; they are recorded, and not done."""
    chooser: RunSpec | None = None
    """The runs on another data set, or those of another comparison, whose trials choose the learning rate of these,
    too; None if these have trials of their own."""
    matched: RunSpec | None = None
    """Where the experiment has `density_of`: the runs that it names, which are done first."""

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the experiment's settings and of the base model; results with another one are not mixed in."""
        content = [self.experiment.params.as_dict(), self.experiment.adapter_settings, self.base_digest]
        if self.matched is not None:
            content.append(self.matched.fingerprint)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def dataset(self) -> str:
        return next(iter(self.problems.values())).dataset

    def path(self, folder: str, suffix: str) -> Path:
        some = next(iter(self.problems.values()))
        name = f"{self.experiment.method}--{self.experiment.name}--{suffix}.json"
        return self.output / folder / some.dataset / self.protocol.tag(some.kind) / name

    def rate_paths(self) -> dict[float, Path]:
        """The file of each learning rate's trial run."""
        if self.chooser is not None:
            return {} if self.reason else self.chooser.rate_paths()
        return {} if self.reason else {rate: self.path("rates", f"rate{rate:g}") for rate in self.rates}

    def rate_jobs(self) -> Iterator[Job]:
        """The runs by which the learning rate is chosen; none if others choose it."""
        if self.chooser is not None:
            return
        seed = next(iter(self.problems))
        for rate, path in self.rate_paths().items():

            def work(rate: float = rate, path: Path = path) -> None:
                assert self.trial is not None
                self.attempt(path, self.experiment.with_rate(rate), self.trial, seed)

            yield Job(path, work, self.matched_paths(seed))

    def jobs(self) -> Iterator[Job]:
        """The runs that are reported, one per seed."""
        for seed in self.problems:
            path = self.path("results", f"seed{seed}")

            def work(seed: int = seed, path: Path = path) -> None:
                self.attempt(path, self.experiment, self.problems[seed], seed, self.choice(), self.plain)

            yield Job(path, work, (*self.rate_paths().values(), *self.matched_paths(seed)))

    def matched_paths(self, seed: int) -> tuple[Path, ...]:
        """The file of the run whose support gives the density of this one, if there is any."""
        if self.matched is None or self.reason:
            return ()
        return (self.matched.path("results", f"seed{seed}"),)

    def results(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The results that exist already, those of the trial runs included."""
        for job in (*self.rate_jobs(), *self.jobs()):
            if job.path.exists():
                yield job.path, read_result(job.path)

    def choice(self) -> list[dict[str, Any]]:
        """The outcome of each learning rate's trial run."""
        return [trial_row(rate, read_result(path)) for rate, path in self.rate_paths().items()]

    def attempt(
        self,
        path: Path,
        experiment: Experiment,
        part: Problem,
        seed: int,
        choice: Sequence[Mapping[str, Any]] = (),
        plain: PlainText | None = None,
    ) -> None:
        """Do one run, at the best learning rate if there is a choice, and write its result."""
        outcome, error = Outcome(), ""
        try:
            for matched in self.matched_paths(seed):
                experiment = replace(experiment, density=density_in_the_end(read_result(matched)))
            if choice:
                experiment = experiment.with_rate(best_rate(choice))
            if not self.reason:
                outcome = run(experiment, part, self.base_model, seed, self.device, plain)
                if other := experiment.params.density_of:
                    outcome.notes.append(f"it has as many entries as {other} with the same seed had changed in the end")
        except Exception as problem:  # a user's own method may raise anything; the other runs go on
            error = one_line(problem)
            print(f"{path.stem} on {part.dataset} failed: {error}", file=sys.stderr)
        write_result(
            path,
            experiment,
            part,
            outcome,
            self.base_model,
            error,
            self.reason,
            self.fingerprint,
            choice,
            seed=seed,
            protocol=self.protocol.title(part.kind),
            fraction=None if part.kind == "relation" else self.protocol.fraction,
        )
