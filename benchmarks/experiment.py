"""Ways to train: folders `<method>/<name>` with an adapter_config.json, a training_params.json, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from peft_fishdip import FishDipConfig
from peft_fishdip.schedule import AUTO

from . import methods  # noqa: F401  (registers the methods of our own)
from .settings import SettingsError, TrainingParams, default_params, one_line, read_json

EXPERIMENTS = Path(__file__).parent / "experiments"
ADAPTER, PARAMS = "adapter_config.json", "training_params.json"
BUDGET = ("steps", "meta_steps", "batch_size", "max_length", "bf16")
"""Training parameters that are the same for all methods: the command line alone sets them."""
TASK_TYPES = ("SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "SEQ_CLS")
"""What the models do that can be compared on; the model at hand decides which it is, see `adaptation`."""


@dataclass(frozen=True)
class Experiment:
    """One way to train."""

    method: str
    name: str
    adapter: Path | None
    """Folder of the adapter_config.json; None for full fine-tuning."""
    params: TrainingParams
    update_interval: int | None = None
    """Takes the place of the number of steps between two masks, where masks move."""
    density: float | None = None
    """Takes the place of the file's density: what `density_of` has come to."""

    @property
    def title(self) -> str:
        return f"{self.method}/{self.name}"

    @property
    def adapter_settings(self) -> dict[str, Any] | None:
        """What stands in the adapter_config.json, but for the interval; None for full fine-tuning."""
        if self.adapter is None:
            return None
        content = read_json(self.adapter / ADAPTER)
        moves = content.get("peft_type") == "FISHDIP" and content.get("update_interval", AUTO) is not None
        if moves and self.update_interval:
            content["update_interval"] = self.update_interval
        return content

    @property
    def moves(self) -> bool:
        """Whether it is Fish-Dip with a mask that moves."""
        config = None if self.adapter is None else self.adapter_config()
        return isinstance(config, FishDipConfig) and config.update_interval is not None and self.params.mask != "random"

    def adapter_config(self) -> PeftConfig:
        """The PEFT config of `adapter_settings`.

        Raises:
            SettingsError: see `read_adapter_config`.
        """
        assert self.adapter is not None
        config = read_adapter_config(self.adapter)
        if isinstance(config, FishDipConfig):
            config.update_interval = (self.adapter_settings or {}).get("update_interval", config.update_interval)
            config.density = self.density or config.density
        return config

    def with_rate(self, rate: float) -> Experiment:
        return replace(self, params=replace(self.params, learning_rate=rate))


def load_experiments(
    selected: Sequence[str],
    overrides: Mapping[str, Any],
    roots: Sequence[Path] = (EXPERIMENTS,),
    update_interval: int | None = None,
) -> list[Experiment]:
    """The experiments of these titles, each once; a method stands for all its experiments, "all" for all there are.

    An experiment with `density_of` brings the one that this names.

    Raises:
        SettingsError: there is none of a title, a file of it is broken, or the interval is no positive number.
    """
    if update_interval is not None and update_interval < 1:
        raise SettingsError(f"--update-interval {update_interval}: must be at least 1 step")
    known = folders(roots)
    chosen: dict[str, None] = {}
    for title in selected:
        matching = [other for other in known if title in ("all", other, other.split("/")[0])]
        if not matching:
            raise SettingsError(f"experiment {title!r} is unknown; there are {', '.join(known)}")
        chosen.update(dict.fromkeys(matching))
    found = {title: load_experiment(known[title], overrides) for title in chosen}
    for title, experiment in list(found.items()):
        other = experiment.params.density_of
        if other in known and other not in found:
            found[other] = load_experiment(known[other], overrides)
        if other and not (other in found and found[other].moves and not found[other].params.density_of):
            raise SettingsError(
                f"{known[title] / PARAMS}: density_of={other!r} must name another experiment, one of type FISHDIP with "
                "a mask that moves, such as fishdip/density-1"
            )
    return [replace(experiment, update_interval=update_interval) for experiment in found.values()]


def folders(roots: Sequence[Path] = (EXPERIMENTS,)) -> dict[str, Path]:
    """Where all experiments are, by title.

    Raises:
        SettingsError: a root is no folder, or an experiment of the same title is in another.
    """
    found: dict[str, Path] = {}
    for root in roots:
        if not root.is_dir():
            raise SettingsError(f"--experiments {root} is no folder; give one with a folder <method>/<name> for each")
        for folder in root.glob("*/*"):
            title = f"{folder.parent.name}/{folder.name}"
            if not folder.is_dir() or is_hidden(folder.parent) or is_hidden(folder):
                continue
            if title in found:
                raise SettingsError(f"{folder}: {found[title]} has the same title; rename one of them")
            found[title] = folder
    return dict(sorted(found.items()))


def is_hidden(path: Path) -> bool:
    return path.name.startswith((".", "__"))


def load_experiment(folder: Path, overrides: Mapping[str, Any]) -> Experiment:
    """The experiment of a folder `<method>/<name>`.

    Raises:
        SettingsError: a file is broken, missing, or none of an experiment's; or a setting has no meaning here.
    """
    files = {path.name for path in folder.iterdir() if not is_hidden(path)}
    if not files or files - {ADAPTER, PARAMS}:
        there = ", ".join(sorted(files)) or "nothing"
        raise SettingsError(f"{folder} has {there}; an experiment has {ADAPTER}, {PARAMS} or both, and nothing else")
    params = default_params()
    if PARAMS in files:
        own = read_json(folder / PARAMS)
        if budget := ", ".join(sorted(own.keys() & set(BUDGET))):
            raise SettingsError(
                f"{folder / PARAMS} sets {budget}, but budgets are the same for all methods; "
                "remove it and use the command line, e.g. --steps"
            )
        params = params.updated(own, str(folder / PARAMS))
    params = params.updated(overrides, "command line")
    config = read_adapter_config(folder) if ADAPTER in files else None
    for name, usual in (("mask", "fisher"), ("density_of", "")):
        if (value := getattr(params, name)) != usual and not isinstance(config, FishDipConfig):
            raise SettingsError(f"{folder / PARAMS}: {name}={value!r} is for adapters of type FISHDIP alone; remove it")
    if params.self_training_rounds and (config is None or params.optimizer != "adamw"):
        raise SettingsError(
            f"{folder / PARAMS}: self_training_rounds={params.self_training_rounds} is for an adapter that AdamW "
            f"trains; add {ADAPTER}, and leave optimizer out"
        )
    return Experiment(folder.parent.name, folder.name, folder if ADAPTER in files else None, params)


def read_adapter_config(folder: Path) -> PeftConfig:
    """The PEFT config of an experiment's folder.

    Raises:
        SettingsError: it is none, has another task type, or has a field that its method does not know, which PEFT
            itself would ignore.
    """
    path = folder / ADAPTER
    content = read_json(path)
    kind = content.get("peft_type")
    if not isinstance(kind, str) or kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        known = ", ".join(sorted(map(str.lower, PEFT_TYPE_TO_CONFIG_MAPPING)))
        raise SettingsError(f"{path}: peft_type={kind!r} is unknown; there are {known} (in capitals)")
    if content.get("task_type") not in (None, *TASK_TYPES):
        raise SettingsError(
            f"{path}: task_type={content['task_type']!r} must be one of {', '.join(TASK_TYPES)}; leave it out for "
            "all of them"
        )
    known_fields = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)])}
    if unknown := sorted(content.keys() - known_fields):
        raise SettingsError(
            f"{path}: {kind} has no field {', '.join(unknown)}; it has {', '.join(sorted(known_fields))}"
        )
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{path} is no PEFT config: {one_line(error)}") from error
