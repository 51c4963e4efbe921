"""Results as rows: all seeds of one method in one setting."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from ..problems import METRICS
from ..results import failed, model_name, not_possible
from ..settings import SettingsError
from .bootstrap import Draws

Result = dict[str, Any]

DATASETS = {
    "conll04": "CoNLL04",
    "conll04-ner": "CoNLL04 entities",
    "wnut17": "WNUT 2017",
    "fewrel": "FewRel",
    "ewt_srl": "EWT",
    "woz2": "WOZ 2.0",
    "multiwoz21": "MultiWOZ 2.1",
    "generated": "Generated sentences",
    "everyday": "Everyday sentences",
}
CONFIG_FIELDS = ("task", "dataset", "protocol", "seed", "model_id", "learning_rate", "steps", "batch_size")
BUDGET = ("steps", "meta_steps", "batch_size", "max_length", "num_test_examples")
PLAIN_FIELDS = ("origin", "digest", "num_texts", "num_tokens", "num_cut", "num_short", "loss_before", "reason")
INFO_FIELDS = ("status", "metrics", "num_base_params", "memory_after_fit", "fit_begins", "in_context_shown")


@dataclass(frozen=True)
class Setting:
    """What the methods had to learn, and from how much."""

    task: str
    dataset: str
    fraction: float | None
    protocol: str
    model: str
    several_models: bool = False
    """Whether titles must tell the model."""

    @property
    def data_title(self) -> str:
        return DATASETS.get(self.dataset, self.dataset)

    @property
    def subtitle(self) -> str:
        return f"{self.protocol}, {self.model}" if self.several_models else self.protocol

    @property
    def title(self) -> str:
        return f"{self.data_title}, {self.subtitle}"

    @property
    def metrics(self) -> tuple[str, ...]:
        return METRICS[self.task]

    @property
    def group(self) -> tuple[str, str]:
        """Settings of one group differ by protocol alone."""
        return self.model, self.dataset

    @property
    def order(self) -> tuple[Any, ...]:
        amount = math.inf if self.fraction is None else self.fraction
        return self.model, list(METRICS).index(self.task), self.dataset, amount, self.protocol


@dataclass(frozen=True)
class Row:
    """The runs of one method in one setting, by seed."""

    setting: Setting
    method: str
    runs: tuple[Result, ...]
    num_seeds: int
    """How many seeds any method has in this setting."""
    draws: Mapping[str, Draws] = field(default_factory=dict, compare=False, repr=False)
    """By metric, the scores of each seed that succeeded on other test examples, see `intervals`."""

    @property
    def successes(self) -> list[Result]:
        return [run for run in self.runs if run["train_info"]["status"] == "success"]

    @property
    def failures(self) -> list[Result]:
        return [run for run in self.runs if failed(run)]

    @property
    def reason(self) -> str:
        """Why the method is not possible with this model; empty if it is."""
        return next((run["run_info"]["error_msg"] for run in self.runs if not_possible(run)), "")

    @property
    def num_done(self) -> int:
        """Runs that were tried."""
        return len(self.successes) + len(self.failures)

    def scores(self, metric: str) -> list[float]:
        """Of each run that succeeded, in percent."""
        values = [run["train_info"]["metrics"][-1].get(f"test {metric}") for run in self.successes]
        return [100 * value for value in values if value is not None and math.isfinite(value)]

    @property
    def losses(self) -> list[float]:
        """On test examples, of each run that succeeded and has one: -log p in nats per target token."""
        values = [run["train_info"]["metrics"][-1].get("test loss") for run in self.successes]
        return [value for value in values if value is not None and math.isfinite(value)]

    @property
    def plain_texts(self) -> list[dict[str, Any]]:
        """What was recorded of the loss on plain text, of each run that succeeded and has it."""
        return [found for run in self.successes if (found := run["train_info"].get("plain_text"))]

    @property
    def forgetting(self) -> list[float]:
        """By how much that loss rose, of each run that measured it."""
        values = [run["train_info"]["metrics"][-1].get("forgetting") for run in self.successes]
        return [value for value in values if value is not None and math.isfinite(value)]

    @property
    def calibration_errors(self) -> list[float]:
        """Of each run that succeeded and has one."""
        values = [run["train_info"]["metrics"][-1].get("calibration error") for run in self.successes]
        return [value for value in values if value is not None]

    def figures(self, name: str) -> list[float]:
        """A figure of train_info, of each run that succeeded."""
        return [run["train_info"][name] for run in self.successes]

    @property
    def is_complete(self) -> bool:
        """Whether each seed that any method has in this setting has succeeded."""
        return len(self.successes) == self.num_seeds

    @property
    def num_trainable(self) -> float:
        return mean(self.figures("num_trainable_params"))

    @property
    def share(self) -> float:
        """Trainable parameters in percent of those of the base model."""
        return 100 * self.num_trainable / mean(self.figures("num_base_params"))

    @property
    def num_changed(self) -> float:
        """Entries that training could change: of a mask that moved, all that were ever in it."""
        infos = [run["train_info"] for run in self.successes]
        return mean(
            (info["mask_updates"] or [{}])[-1].get("mask_support", info["num_trainable_params"]) for info in infos
        )


def make_rows(results: Iterable[Result]) -> list[Row]:
    """Rows by setting and method, in the same order whatever the order of the results.

    Raises:
        SettingsError: there are none, one lacks a field, its task is unknown, one run is there twice, or runs of one
            setting had different budgets.
    """
    results = list(results)
    if not results:
        raise SettingsError("there are no results to report; run `python -m benchmarks compare` first")
    for result in results:
        check(result)
    several_models = len({model_of(result) for result in results}) > 1
    runs: dict[Setting, dict[str, dict[int, Result]]] = {}
    budgets: dict[Setting, dict[str, Any]] = {}
    for result in results:
        config, method = train_config(result), result["run_info"]["experiment_name"]
        setting = Setting(
            *(config["task"], config["dataset"], config.get("fraction"), config["protocol"]),
            *(model_of(result), several_models),
        )
        budget = {name: config.get(name) for name in BUDGET}
        for name, value in budgets.setdefault(setting, budget).items():
            if budget[name] != value:
                raise SettingsError(
                    f"{method} on {setting.title} has {name}={budget[name]!r}, other runs have {value!r}: these do not "
                    "compare; report their folders one at a time"
                )
        by_seed = runs.setdefault(setting, {}).setdefault(method, {})
        if config["seed"] in by_seed:
            raise SettingsError(
                f"{method} on {setting.title} has two results of seed {config['seed']}; report one folder at a time"
            )
        by_seed[config["seed"]] = result
    rows = []
    for setting in sorted(runs, key=lambda setting: setting.order):
        seeds = {seed for by_seed in runs[setting].values() for seed in by_seed}
        for method, by_seed in sorted(runs[setting].items()):
            rows.append(Row(setting, method, tuple(by_seed[seed] for seed in sorted(by_seed)), len(seeds)))
    return rows


def check(result: Result) -> None:
    try:
        config, name = train_config(result), result["run_info"]["experiment_name"]
        missing = [field for field in CONFIG_FIELDS if field not in config]
        missing += [field for field in INFO_FIELDS if field not in result["train_info"]]
        plain = result["train_info"].get("plain_text") or {}
        missing += [f"plain_text.{field}" for field in PLAIN_FIELDS if plain and field not in plain]
    except (KeyError, TypeError) as error:
        raise SettingsError(f"not the result of a run: {error!r} is missing") from error
    if missing:
        raise SettingsError(f"result of {name} has no {', '.join(missing)}; remove it and run it anew")
    if config["task"] not in METRICS:
        raise SettingsError(f"result of {name}: task {config['task']!r} is unknown; there are {', '.join(METRICS)}")


def train_config(result: Result) -> dict[str, Any]:
    config: dict[str, Any] = result["run_info"]["train_config"]
    return config


def settings_of(rows: Iterable[Row]) -> list[Setting]:
    return list(dict.fromkeys(row.setting for row in rows))


def first_error(row: Row) -> str:
    """One line, cut to a readable length."""
    return one_line(row.failures[0]["run_info"]["error_msg"]) or "no error message"


def one_line(text: str | None, length: int = 200) -> str:
    words = " ".join((text or "").split())
    return words if len(words) <= length else words[: length - 1] + "…"


def model_of(result: Result) -> str:
    """As results tell it today, where older ones told the whole path of a folder."""
    return model_name(str(train_config(result)["model_id"]))
