"""All runs of a comparison: every method on every data set, with every seed, at the best of a few learning rates."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from peft_fishdip.tasks.families import is_encoder

from .adaptation import impossible
from .data_sets import DATA_SETS, load
from .experiment import Experiment
from .files import read_own, write_json
from .jobs import lock, work_through
from .plain_text import read_plain_text
from .pretrained import check_length, check_task, digest, load_config, load_model
from .problems import Protocol, problem, rate_problem
from .results import failed, model_name, not_possible, read_result
from .run_spec import RunSpec
from .settings import SettingsError
from .training import warm_up

NO_TEXTS = "it learns from unlabelled sentences, of which there are none without --unlabelled-fraction"


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
    rate_task: str | None = None
    """The data set by which the learning rate of all is chosen; None if each data set has its own."""
    rates_from: Path | None = None
    """Folder of another comparison, which has chosen the learning rates; None if this one does."""
    plain_text: Path | None = None
    """A file with texts by which forgetting is measured; None for the sentences of `plain_text.txt`."""
    max_plain: int | None = None
    """So many of these texts at most; 0 if forgetting is not measured."""
    retry_failed: bool = False
    """Whether runs that failed are done again, with those that chose a learning rate among failed ones."""

    def run(self, device: torch.device) -> None:
        """Do all runs that are not done yet, together with other processes that do the same.

        A run that fails is recorded with its error, and the others go on. What a method cannot do on this model is
        recorded as not possible.

        Raises:
            SettingsError: a data set, an adapter or the model cannot be used, or there are results made in another way.
        """
        specs = self.with_choosers(self.checked(list(self.specs(device))))
        self.check_rates_from(specs)
        with lock(self.output, "comparison"):
            self.begin()
            if self.retry_failed:
                remove_failed(specs)
            remove_refused(specs)
            self.refuse_stale(specs)
        jobs = [job for spec in specs for job in spec.rate_jobs()] + [job for spec in specs for job in spec.jobs()]
        if not all(job.path.exists() for job in jobs):
            warm_up(next(spec.experiment for spec in specs if not spec.reason), self.base_model, device)
        work_through(jobs, self.output)

    def checked(self, specs: Sequence[RunSpec]) -> list[RunSpec]:
        """The specifications with why they are not possible on this model, where they are not; that is printed, too.

        Raises:
            SettingsError: none of them is possible, or see `adaptation.impossible`.
        """
        reasons = self.reasons()
        told = [f"{title} on {dataset}: {reason}" for dataset, own in reasons.items() for title, reason in own.items()]
        specs = [replace(x, reason=reasons[x.dataset].get(x.experiment.title, "")) for x in specs]
        if all(spec.reason for spec in specs):
            raise SettingsError(f"--model {self.base_model}: no method is possible: {'; '.join(told)}")
        for line in told:
            print(f"not possible: {line}", file=sys.stderr)
        return specs

    def reasons(self) -> dict[str, dict[str, str]]:
        """Why methods are not possible, by data set and title. An encoder has another classifier for each data set."""
        found: dict[str, dict[str, str]] = {}
        for dataset in self.datasets:
            if not found or is_encoder(load_config(self.base_model)):
                loaded = load(dataset, self.root)
                base = load_model(self.base_model, loaded.task)
                check_length(self.base_model, base, self.experiments[0].params.max_length)
                own = impossible(self.experiments, base, loaded.task, loaded.train[0])
            found[dataset] = {**own, **self.without_unlabelled(dataset)}
        return found

    def without_unlabelled(self, dataset: str) -> dict[str, str]:
        """Why self-training is not possible on a data set, by title."""
        if self.protocols[0].unlabelled_fraction and DATA_SETS[dataset].kind != "relation":
            return {}
        few = "episodes have no unlabelled sentences" if self.protocols[0].unlabelled_fraction else NO_TEXTS
        return {x.title: few for x in self.experiments if x.params.self_training_rounds}

    def specs(self, device: torch.device) -> Iterator[RunSpec]:
        """The specifications of all runs. Examples are drawn here, so that too few of them are refused at once."""
        config = load_config(self.base_model)
        for dataset in self.datasets:
            check_task(self.base_model, config, dataset, load(dataset, self.root).task)
        base_digest = digest(self.base_model, config)
        plain = None if self.max_plain == 0 else read_plain_text(self.plain_text, self.max_plain)
        first = self.seeds[0]
        for dataset in self.datasets:
            for protocol in self.protocols[:1] if DATA_SETS[dataset].kind == "relation" else self.protocols:
                problems = {seed: problem(dataset, self.root, protocol, seed) for seed in self.seeds}
                choosing = any(self.rates_of(experiment) for experiment in self.experiments)
                trial = rate_problem(problems[first], protocol, first, self.root) if choosing else None
                own = {
                    experiment.title: RunSpec(
                        *(self.output, self.base_model, base_digest, experiment, protocol),
                        *(problems, self.rates_of(experiment), trial, device, plain),
                    )
                    for experiment in self.experiments
                }
                for spec in own.values():
                    other = spec.experiment.params.density_of
                    yield replace(spec, matched=own[other]) if other else spec

    def with_choosers(self, specs: Sequence[RunSpec]) -> list[RunSpec]:
        """The specifications, each with the one whose trials choose its learning rate, where that is another one."""
        found = []
        for spec in specs:
            chooser = spec
            if self.rate_task is not None:
                same = (x for x in specs if (x.experiment.title, x.protocol) == (spec.experiment.title, spec.protocol))
                chooser = next(x for x in same if x.dataset == self.rate_task)
            if self.rates_from is not None:
                chooser = replace(chooser, output=self.rates_from)
            found.append(spec if chooser is spec else replace(spec, chooser=chooser))
        return found

    def check_rates_from(self, specs: Sequence[RunSpec]) -> None:
        """
        Raises:
            SettingsError: the other comparison has not made all trials, or made them with other experiments.
        """
        for spec in specs if self.rates_from is not None else ():
            for path in spec.rate_paths().values():
                if not path.exists():
                    raise SettingsError(
                        f"--rates-from {self.rates_from} has no {path}; let that comparison go on first"
                    )
                if read_result(path)["run_info"].get("fingerprint") != spec.fingerprint:
                    raise SettingsError(f"{path} is of an experiment or a model whose files have changed since")

    def rates_of(self, experiment: Experiment) -> Sequence[float]:
        """What it chooses from; nothing if its rate is fixed or it has none."""
        return () if experiment.params.fixed_rate or experiment.params.in_context_examples else self.rates

    def begin(self) -> None:
        """Write down what all results in the folder have in common, or compare with what was written.

        Raises:
            SettingsError: it differs.
        """
        protocol = self.protocols[0]
        common: dict[str, Any] = {
            "model": model_name(self.base_model),
            "data": None if self.root is None else self.root.resolve().name,
            "rates": list(self.rates),
            "rate seed": self.seeds[0] if self.rates else None,
            "rate task": self.rate_task,
            "rates from": self.rates_from and self.rates_from.name,
            "rates by": protocol.rates_by,
            "part": protocol.part,
            "training parameters": dict(self.overrides),
            "episodes": protocol.num_episodes,
            "max_train": protocol.max_train,
            "max_test": protocol.max_test,
            "plain text": None if self.plain_text is None else read_plain_text(self.plain_text).digest,
            "max_plain": self.max_plain,
            "unlabelled fraction": protocol.unlabelled_fraction or None,
        }
        path = self.output / "comparison.json"
        before = read_own(path) if path.exists() else common
        changed = [
            f"{name} was {before.get(name)!r}, is {now!r}" for name, now in common.items() if before.get(name) != now
        ]
        if changed:
            remedy = "choose another --output"
            if before.get("rate seed") not in (None, common["rate seed"]):
                remedy = f"name seed {before['rate seed']} first in --seeds, or {remedy}"
            raise SettingsError(f"{self.output} has other results ({'; '.join(changed)}); {remedy}")
        write_json(path, common)

    def refuse_stale(self, specs: Sequence[RunSpec]) -> None:
        """
        Raises:
            SettingsError: there are results that other files of the experiment or of the model gave.
        """
        stale = [
            str(path.relative_to(self.output))
            for spec in specs
            for path, result in spec.results()
            if result["run_info"].get("fingerprint") != spec.fingerprint
        ]
        if stale:
            raise SettingsError(
                f"{self.output} has results of experiments or of a model whose files have changed since: "
                f"{', '.join(stale)}; delete these, or choose another --output"
            )


def remove_failed(specs: Sequence[RunSpec]) -> None:
    """Delete the results of runs that failed, and of those that chose among learning rates one of which failed."""
    for spec in specs:
        for path, result in spec.results():
            if failed(result) or any(row["error"] for row in result["run_info"]["rate_choice"]):
                path.unlink(missing_ok=True)


def remove_refused(specs: Sequence[RunSpec]) -> None:
    """Delete the results that a run was not possible, where it now is, such as with another release of PEFT."""
    for spec in specs:
        for path, result in [] if spec.reason else spec.results():
            if not_possible(result):
                path.unlink(missing_ok=True)
