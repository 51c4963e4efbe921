"""How to train: defaults, what an experiment's folder says, what the command line says, in this order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EXPERIMENTS = HERE / "experiments"


class SettingsError(ValueError):
    """Something that the user wrote is wrong; the message says what, and what there is instead."""


@dataclass(frozen=True)
class TrainingParams:
    """The numbers of one training run; all methods run for the same number of steps."""

    learning_rate: float
    """Peak rate; warmed up linearly over `warmup_share` of the steps, then down to zero."""
    steps: int
    """Optimizer steps."""
    batch_size: int
    """Examples per step."""
    warmup_share: float
    weight_decay: float
    max_grad_norm: float
    max_length: int
    """Tokens of source and of target."""
    eval_batch_size: int
    log_every: int
    """Steps between two rows of the metrics."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "steps", "batch_size", "max_length", "eval_batch_size", "log_every"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name}={getattr(self, name)!r} must be greater than 0")
        for name in ("warmup_share", "weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name}={getattr(self, name)!r} must not be negative")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def updated(self, values: Mapping[str, Any], origin: str) -> TrainingParams:
        """A copy with other values, whose names and types are checked; `origin` is where they stand."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if name not in known:
                raise SettingsError(f"{origin}: there is no training parameter {name!r}; there are {', '.join(known)}")
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or (isinstance(known[name], int) and not isinstance(value, int)):
                raise SettingsError(f"{origin}: {name}={value!r} must be of type {type(known[name]).__name__}")
        return replace(self, **values)


@dataclass(frozen=True)
class Experiment:
    """One way to train: a folder below `experiments/`."""

    method: str
    name: str
    adapter: Path | None
    """Folder of the adapter_config.json; None for full fine-tuning."""
    params: TrainingParams

    @property
    def title(self) -> str:
        return f"{self.method}/{self.name}"


def load_experiment(title: str, overrides: Mapping[str, Any], root: Path = EXPERIMENTS) -> Experiment:
    """The experiment `method/name`, or the only one of `method`.

    Raises:
        SettingsError: there is none of that title, or a file of it is broken.
    """
    matching = [other for other in titles(root) if title in (other, other.split("/")[0])]
    if len(matching) != 1:
        problem = "is not unique" if matching else "is unknown"
        raise SettingsError(f"experiment {title!r} {problem}; there are {', '.join(titles(root))}")
    folder = root / matching[0]
    params = TrainingParams(**read_json(HERE / "default_training_params.json"))
    own = folder / "training_params.json"
    if own.exists():
        params = params.updated(read_json(own), str(own))
    params = params.updated(overrides, "command line")
    method, name = matching[0].split("/")
    return Experiment(method, name, folder if (folder / "adapter_config.json").exists() else None, params)


def titles(root: Path = EXPERIMENTS) -> list[str]:
    """All experiments, as method/name."""
    return sorted(f"{folder.parent.name}/{folder.name}" for folder in root.glob("*/*") if folder.is_dir())


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content
