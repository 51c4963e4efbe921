"""What is measured, and how: every option of the command line, with its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from ..settings import SettingsError
from .geometry import GEOMETRIES

PATTERNS = ("uniform", "clustered", "rows", "real")
LIFETIMES = ("auto", "keep", "rebuild")
DTYPES = ("float32", "bfloat16")
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": {
        "geometry": "large",
        "batch": 8,
        "source": 256,
        "target": 256,
        "device": "cuda",
        "repeats": 5,
        "timed_steps": 10,
        "geometries": ("small", "base", "large", "3b:bfloat16"),
    },
}
"""What differs from the defaults."""


def option(default: Any, group: str, text: str) -> Any:
    return field(default=default, metadata={"group": group, "help": text})


@dataclass(frozen=True)
class Settings:
    """All options. A tuple is given as several words; None means: not given."""

    geometry: str = option("small", "model", f"random T5 of this size: {', '.join(GEOMETRIES)}")
    model: str | None = option(
        None, "model", "folder of a pretrained T5 in place of a random one; nothing is downloaded"
    )
    dtype: str = option("float32", "model", f"of the weights: {', '.join(DTYPES)}")
    autocast: bool = option(False, "model", "compute forward passes under bfloat16 autocast")
    dropout: float = option(0.1, "model", "dropout rate of a random T5, on during training steps as in fine-tuning")
    device: str = option("cpu", "model", "cpu or cuda")
    threads: int = option(0, "model", "threads of torch on the CPU; 0: as torch chooses")
    batch: int = option(4, "model", "examples of a training step")
    source: int = option(128, "model", "tokens of a source")
    target: int = option(64, "model", "tokens of a target")
    seed: int = option(0, "model", "of weights, data, masks and the order of contestants")

    rounds: int = option(5, "rounds", "rounds that count; each contestant has one turn per round")
    warmup: int = option(1, "rounds", "rounds before them that do not count")
    repeats: int = option(1, "rounds", "steps per turn; their mean counts")
    lifetime: str = option(
        "auto",
        "rounds",
        "keep: all contestants live at once, on one set of weights; rebuild: each is made anew for its turn; auto: "
        "keep if that takes less than 70 % of the memory that is free",
    )

    density: float = option(0.01, "contestants", "density at which peers are compared and targets hold")
    densities: tuple[float, ...] = option((0.001, 0.01, 0.05), "contestants", "densities of Fish-Dip")
    patterns: tuple[str, ...] = option(
        ("uniform", "clustered", "real"),
        "contestants",
        "masks of Fish-Dip. uniform: anywhere; clustered: within 10 % of the rows and 10 % of the columns of each "
        "matrix; rows: within 10 % of the rows; real: the most important entries after a short training, or --adapter",
    )
    contestants: tuple[str, ...] = option(
        (),
        "contestants",
        "instead of the usual ones: frozen, lora, full, shira@DENSITY, supertuning@DENSITY, masked@DENSITY, "
        "fishdip-PATTERN@DENSITY",
    )
    adapter: str | None = option(None, "contestants", "folder of a trained Fish-Dip adapter, for real masks")
    real_steps: int = option(10, "contestants", "else: steps of the training before the real mask is chosen")

    children: int = option(3, "memory", "processes per contestant; each measures once")

    examples: int = option(400, "update", "examples of a mask update")
    shortest: float = option(
        1.0, "update", "shortest example as a share of --source and --target; 1: all of one length"
    )
    step_batch: int = option(32, "update", "examples of the training steps that an update is compared with")
    timed_steps: int = option(3, "update", "such steps measured per round; their median counts for all")
    interval: int = option(100, "update", "training steps per update")
    fisher_examples: int = option(25, "update", "examples of the Fisher comparison")
    fisher_lengths: tuple[int, ...] = option(
        (16, 32, 64, 128), "update", "tokens of their sources and of their targets"
    )

    new_tokens: int = option(32, "decode", "tokens to decode")
    decode_batch: int = option(1, "decode", "sentences decoded at once")

    geometries: tuple[str, ...] = option(
        ("nano", "small", "base", "large"), "scale", "sizes, each with :DTYPE if another than --dtype"
    )
    scale_contestants: tuple[str, ...] = option(
        ("frozen", "fishdip-uniform@0.01", "lora", "full"), "scale", "contestants at every size"
    )
    scale_examples: int = option(20, "scale", "examples of the mask updates")
    linear_from: int = option(
        50_000_000, "scale", "parameters of a model that is big enough to be compared with larger ones"
    )

    compiled_contestants: tuple[str, ...] = option(
        ("fishdip-uniform@0.01", "lora"), "compilation", "contestants with and without torch.compile"
    )

    largest: str = option("large:bfloat16", "largest", "size of the model that has to fit, with :DTYPE")
    largest_tokens: int = option(32, "largest", "tokens of its one source and of its target")

    def __post_init__(self) -> None:
        for name, known in (("dtype", DTYPES), ("lifetime", LIFETIMES)):
            if getattr(self, name) not in known:
                raise SettingsError(f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}")
        for pattern in self.patterns:
            if pattern not in PATTERNS:
                raise SettingsError(f"pattern {pattern!r} is unknown; there are {', '.join(PATTERNS)}")
        if self.geometry not in GEOMETRIES:
            raise SettingsError(f"geometry={self.geometry!r} is unknown; there are {', '.join(GEOMETRIES)}")
        for item in fields(self):
            value = getattr(self, item.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, (int, float)) and not isinstance(number, bool):
                    check_number(item.name, number)

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    @property
    def torch_device(self) -> torch.device:
        """The device; a SettingsError if it cannot be used."""
        try:
            device = torch.device(self.device)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise SettingsError(f"device={self.device!r} cannot be used: {str(error).splitlines()[0]}") from error
        return device

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """From what [`as_dict`] gave, also by way of JSON."""
        known = {item.name for item in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise SettingsError(f"there is no setting {', '.join(unknown)}")
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**given)


MAY_BE_ZERO = ("threads", "warmup", "seed", "dropout", "linear_from", "real_steps")
SHARES = ("density", "densities", "shortest")


def check_number(name: str, value: float) -> None:
    if value < 0 or (value == 0 and name not in MAY_BE_ZERO):
        raise SettingsError(f"{name}={value!r} must be {'at least' if name in MAY_BE_ZERO else 'greater than'} 0")
    if name in SHARES and value > 1:
        raise SettingsError(f"{name}={value!r} must be at most 1")
    if name == "dropout" and value >= 1:
        raise SettingsError(f"dropout={value!r} must be less than 1")
