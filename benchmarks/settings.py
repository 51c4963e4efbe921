"""How to train: defaults, what an experiment's folder says, what the command line says, in this order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from . import methods  # noqa: F401  (registers the methods of our own)

HERE = Path(__file__).parent
EXPERIMENTS = HERE / "experiments"
OPTIMIZERS = ("adamw", "adafactor", "sparse_adafactor")
MASKS = ("fisher", "random")


class SettingsError(ValueError):
    """Something that the user wrote is wrong; the message says what, and what there is instead."""


@dataclass(frozen=True)
class TrainingParams:
    """The numbers of one training run; all methods run for the same number of steps."""

    learning_rate: float
    """Peak rate; warmed up linearly over `warmup_share` of the steps, then down to zero."""
    optimizer: str
    """One of OPTIMIZERS; adafactor and sparse_adafactor scale the rate by the RMS of each tensor, as in the paper."""
    steps: int
    """Optimizer steps; in a relation episode too."""
    meta_steps: int
    """Optimizer steps on the meta-training relations, before the first episode."""
    batch_size: int
    """Examples per step."""
    warmup_share: float
    weight_decay: float
    max_grad_norm: float
    early_stop_loss: float
    """Training ends once the loss of a step was below this ..."""
    early_stop_steps: int
    """... for so many steps in a row (1e-6 and 20 in the paper's code)."""
    max_length: int
    """Tokens of source and of target."""
    eval_batch_size: int
    log_every: int
    """Steps between two rows of the metrics."""
    mask: str
    """Of a Fish-Dip adapter: by Fisher information, or drawn once at random."""
    in_context_examples: int
    """If greater than 0: nothing is trained, so many examples are put before each source instead."""

    def __post_init__(self) -> None:
        for name in (
            *("learning_rate", "steps", "meta_steps", "batch_size", "early_stop_steps"),
            *("max_length", "eval_batch_size", "log_every"),
        ):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name}={getattr(self, name)!r} must be greater than 0")
        for name in ("warmup_share", "weight_decay", "max_grad_norm", "early_stop_loss", "in_context_examples"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"{name}={getattr(self, name)!r} must not be negative")
        for name, known in (("optimizer", OPTIMIZERS), ("mask", MASKS)):
            if getattr(self, name) not in known:
                raise SettingsError(f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def updated(self, values: Mapping[str, Any], origin: str) -> TrainingParams:
        """A copy with other values, whose names and types are checked; `origin` is where they stand."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if name not in known:
                raise SettingsError(f"{origin}: there is no training parameter {name!r}; there are {', '.join(known)}")
            kind = type(known[name])
            fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
            if not fits:
                raise SettingsError(f"{origin}: {name}={value!r} must be of type {kind.__name__}")
        try:
            return replace(self, **values)
        except SettingsError as error:
            raise SettingsError(f"{origin}: {error}") from None


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

    def with_rate(self, rate: float) -> Experiment:
        return replace(self, params=replace(self.params, learning_rate=rate))


def load_experiments(
    selected: Sequence[str], overrides: Mapping[str, Any], root: Path = EXPERIMENTS
) -> list[Experiment]:
    """The experiments of these titles, each once; a method stands for all its experiments, "all" for all there are.

    Raises:
        SettingsError: there is none of a title, or a file of it is broken.
    """
    chosen: dict[str, None] = {}
    for title in selected:
        matching = [other for other in titles(root) if title in ("all", other, other.split("/")[0])]
        if not matching:
            raise SettingsError(f"experiment {title!r} is unknown; there are {', '.join(titles(root))}")
        chosen.update(dict.fromkeys(matching))
    return [load_experiment(root / title, overrides) for title in chosen]


def load_experiment(folder: Path, overrides: Mapping[str, Any]) -> Experiment:
    """The experiment of a folder `<method>/<name>`."""
    params = default_params()
    own = folder / "training_params.json"
    if own.exists():
        params = params.updated(read_json(own), str(own))
    params = params.updated(overrides, "command line")
    adapter = folder if (folder / "adapter_config.json").exists() else None
    if adapter is not None:
        read_adapter_config(adapter)
    return Experiment(folder.parent.name, folder.name, adapter, params)


def default_params() -> TrainingParams:
    return TrainingParams(**read_json(HERE / "default_training_params.json"))


def read_adapter_config(folder: Path) -> PeftConfig:
    """The PEFT config of an experiment's folder.

    Raises:
        SettingsError: it is none, or has a field that its method does not know (PEFT itself would ignore that).
    """
    path = folder / "adapter_config.json"
    content = read_json(path)
    kind = content.get("peft_type")
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        known = ", ".join(sorted(map(str.lower, PEFT_TYPE_TO_CONFIG_MAPPING)))
        raise SettingsError(f"{path}: peft_type={kind!r} is unknown; there are {known} (in capitals)")
    known_fields = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])}
    if unknown := sorted(content.keys() - known_fields):
        raise SettingsError(
            f"{path}: {kind} has no field {', '.join(unknown)}; it has {', '.join(sorted(known_fields))}"
        )
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{path} is no PEFT config: {one_line(error)}") from error


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


def one_line(error: BaseException) -> str:
    """What an error says, without line ends."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
