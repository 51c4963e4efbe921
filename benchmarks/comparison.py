"""All runs of a comparison: every method on every data set, with every seed, at the best of a few learning rates."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .jobs import Job, work_through
from .problems import DATA_SETS, Problem, Protocol, problem, rate_problem
from .results import score, write_json, write_result
from .settings import Experiment, SettingsError, one_line, read_json
from .training import Outcome, load_model, run

RATES = (3e-4, 3e-3, 3e-2, 3e-1)
"""The learning rates that every method may choose from."""


@dataclass(frozen=True)
class Comparison:
    """What is compared, and where the results go."""

    output: Path
    base_model: str
    experiments: Sequence[Experiment]
    datasets: Sequence[str]
    protocols: Sequence[Protocol]
    """They differ in the fraction alone."""
    seeds: Sequence[int]
    rates: Sequence[float] = ()
    """Learning rates to choose from, by a share of the training examples; none: the one of each experiment."""
    root: Path | None = None
    """Folder of the data sets."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Training parameters that all experiments were given."""

    def run(self, device: torch.device) -> None:
        """Do all runs that are not done yet, together with other processes that do the same.

        A run that fails is recorded with its error, and the others go on.

        Raises:
            SettingsError: a data set or the model cannot be read, or the folder has results made in another way.
        """
        for dataset in self.datasets:
            problem(dataset, self.root, self.protocols[0], self.seeds[0])
        load_model(self.base_model)
        self.begin()
        cells = [
            Cell(self, experiment, dataset, protocol, device)
            for dataset in self.datasets
            for protocol in (self.protocols[:1] if DATA_SETS[dataset].kind == "relation" else self.protocols)
            for experiment in self.experiments
        ]
        jobs = [job for cell in cells for job in cell.rate_jobs()]
        jobs += [cell.job(seed) for cell in cells for seed in self.seeds]
        work_through(jobs, self.output / "locks")

    def begin(self) -> None:
        """Write down what all results in the folder have in common, or compare with what was written."""
        protocol = self.protocols[0]
        common: dict[str, Any] = {
            "model": self.base_model,
            "rates": list(self.rates),
            "training parameters": dict(self.overrides),
            "episodes": protocol.num_episodes,
            "max_train": protocol.max_train,
            "max_test": protocol.max_test,
        }
        path = self.output / "comparison.json"
        before = read_json(path) if path.exists() else common
        changed = [
            f"{name} was {before.get(name)!r}, is {now!r}" for name, now in common.items() if before.get(name) != now
        ]
        if changed:
            raise SettingsError(f"{path.parent} has other results ({'; '.join(changed)}); choose another --output")
        write_json(path, common)


@dataclass(frozen=True)
class Cell:
    """A method on what a protocol leaves of a data set."""

    comparison: Comparison
    experiment: Experiment
    dataset: str
    protocol: Protocol
    device: torch.device

    def path(self, folder: str, suffix: str) -> Path:
        tag = self.protocol.tag(DATA_SETS[self.dataset].kind)
        name = f"{self.experiment.method}--{self.experiment.name}--{suffix}.json"
        return self.comparison.output / folder / self.dataset / tag / name

    def rate_paths(self) -> dict[float, Path]:
        """Where the result of each learning rate is; empty if there is nothing to choose."""
        if self.experiment.params.in_context_examples:
            return {}
        return {rate: self.path("rates", f"rate{rate:g}") for rate in self.comparison.rates}

    def rate_jobs(self) -> Iterator[Job]:
        """The runs by which the learning rate is chosen: on examples of the first seed's training set alone."""
        seed = self.comparison.seeds[0]
        for rate, path in self.rate_paths().items():

            def work(rate: float = rate, path: Path = path) -> None:
                whole = self.problem(seed)
                part = rate_problem(whole, self.protocol, seed)
                self.attempt(path, self.experiment.with_rate(rate), part, seed)

            yield Job(path, work)

    def job(self, seed: int) -> Job:
        """The run that is reported."""
        path = self.path("results", f"seed{seed}")

        def work() -> None:
            trials = {rate: read_json(where) for rate, where in self.rate_paths().items()}
            experiment = self.experiment
            if trials:
                experiment = experiment.with_rate(max(trials, key=lambda rate: score(trials[rate])))
            choice = [trial_row(rate, trial) for rate, trial in trials.items()]
            self.attempt(path, experiment, self.problem(seed), seed, rate_choice=choice)

        return Job(path, work, tuple(self.rate_paths().values()))

    def problem(self, seed: int) -> Problem:
        return problem(self.dataset, self.comparison.root, self.protocol, seed)

    def attempt(self, path: Path, experiment: Experiment, part: Problem, seed: int, **config: Any) -> None:
        """Run, and write what came of it."""
        base_model = self.comparison.base_model
        try:
            outcome, error = run(experiment, part, base_model, seed, self.device), ""
        except Exception as problem:  # whatever a method of a user's own may raise; the other runs go on
            outcome, error = Outcome(), one_line(problem)
            print(f"{path.stem} on {part.dataset} failed: {error}", file=sys.stderr)
        relation = part.kind == "relation"
        config["protocol"] = self.protocol.title(part.kind)
        config["fraction"] = None if relation else self.protocol.fraction
        write_result(path, experiment, part, outcome, error, model_id=base_model, seed=seed, **config)


def trial_row(rate: float, trial: Mapping[str, Any]) -> dict[str, Any]:
    """What a learning rate came to, for the result of the run that chose among them."""
    row = trial["train_info"]["metrics"][-1]
    scores = {name.removeprefix("test "): value for name, value in row.items() if name.startswith("test ")}
    return {
        "learning_rate": rate,
        "scores": scores,
        "loss": scores.pop("loss", None),
        "error": trial["run_info"]["error_msg"],
    }
