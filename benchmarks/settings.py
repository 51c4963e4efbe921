"""The numbers of one training run, and what is said when one of them is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

DEFAULTS = Path(__file__).parent / "default_training_params.json"
OPTIMIZERS = ("adamw", "adafactor", "sparse_adafactor")
MASKS = ("fisher", "random", "lottery")
LATER = {
    "head_rate": "head_rate",
    "density_of": "density_of",
    "self_training_rounds": "self_training_rounds",
    "reweight": "self_training_rounds",
}
"""Parameters that came later than the first results, each with the one that says whether it is used."""


class SettingsError(ValueError):
    """Something that the user wrote is wrong; the message says what, and what there is instead."""


@dataclass(frozen=True)
class TrainingParams:
    """The numbers of one training run; all methods run for the same number of steps."""

    learning_rate: float
    """Peak rate; warmed up linearly over `warmup_share` of the steps, then down to zero."""
    fixed_rate: bool
    """Whether that rate is kept where the other methods choose theirs."""
    optimizer: str
    """One of OPTIMIZERS; adafactor and sparse_adafactor scale the rate by the RMS of each tensor, as in the paper."""
    steps: int
    """Optimizer steps; in a relation episode too."""
    meta_steps: int
    """Optimizer steps on the meta-training relations, before the first episode."""
    batch_size: int
    """Examples per step."""
    bf16: bool
    """Whether forward passes run under torch.autocast in bfloat16; weights stay float32."""
    warmup_share: float
    weight_decay: float
    max_grad_norm: float
    """Gradients, as the optimizer sees them, are scaled down to this norm over all trainable parameters."""
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
    """Of a Fish-Dip adapter: "fisher" for one by its `importance`, "random" for one that is drawn once, "lottery" for
    the entries that the first half of the steps moves most in full fine-tuning, before the other half trains them."""
    density_of: str
    """A Fish-Dip experiment with a mask that moves: this one has as many entries as that one had changed in the end."""
    in_context_examples: int
    """If greater than 0: nothing is trained, so many examples (of an episode: all) stand before each source instead."""
    in_context_length: int
    """Tokens of such a source; examples that do not fit are left out."""
    self_training_rounds: int
    """If greater than 0: unlabelled sentences are learnt from, too, in so many rounds, each of as many steps."""
    reweight: bool
    """Whether pseudo-labels of these are weighed by the meta-gradient."""
    head_rate: float
    """If greater than 0: the rate of AdamW for the new classifier of an encoder, in place of `optimizers.HEAD_RATE`
    beside an adapter and of `learning_rate` in full fine-tuning."""

    def __post_init__(self) -> None:
        for name in (
            *("learning_rate", "steps", "meta_steps", "batch_size", "early_stop_steps"),
            *("max_grad_norm", "max_length", "eval_batch_size", "log_every", "in_context_length"),
        ):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name}={getattr(self, name)!r} must be greater than 0")
        for name in (
            *("warmup_share", "weight_decay", "early_stop_loss", "head_rate"),
            *("in_context_examples", "self_training_rounds"),
        ):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"{name}={getattr(self, name)!r} must not be negative")
        for name, known in (("optimizer", OPTIMIZERS), ("mask", MASKS)):
            if getattr(self, name) not in known:
                raise SettingsError(f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}")

    def as_dict(self) -> dict[str, Any]:
        """All of them, those of `LATER` only where they are used: results that are older keep their fingerprint."""
        return {name: value for name, value in asdict(self).items() if name not in LATER or getattr(self, LATER[name])}

    def updated(self, values: Mapping[str, Any], origin: str) -> TrainingParams:
        """A copy with other values, whose names and types are checked; `origin` is where they stand."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if name not in known:
                raise SettingsError(f"{origin}: there is no training parameter {name!r}; there are {', '.join(known)}")
            kind = type(known[name])
            fits = isinstance(value, (int, float) if kind is float else kind)
            if not fits or (isinstance(value, bool) and kind is not bool):
                raise SettingsError(f"{origin}: {name}={value!r} must be of type {kind.__name__}")
        try:
            return replace(self, **values)
        except SettingsError as error:
            raise SettingsError(f"{origin}: {error}") from None


def default_params() -> TrainingParams:
    return TrainingParams(**read_json(DEFAULTS))


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
