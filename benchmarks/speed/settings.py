"""The methods, the sizes of models, and every option of the command line with its default and its meaning."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from ..settings import SettingsError

GEOMETRIES = {
    "tiny": (32, 64, 1, 1, 64, 100),
    "nano": (256, 1024, 4, 4, 64, 8192),
    "small": (512, 2048, 6, 8, 64, 32128),
    "base": (768, 3072, 12, 12, 64, 32128),
    "large": (1024, 4096, 24, 16, 64, 32128),
    "3b": (1024, 16384, 24, 32, 128, 32128),
}
"""d_model, d_ff, layers, heads, d_kv and vocabulary: from small on those of the original T5; tiny is for tests."""
PATTERNS = ("uniform", "clustered", "real")
METHODS = {
    "frozen": "frozen: forward and input gradients (the floor)",
    "lora": "LoRA r8, all-linear",
    "full": "full fine-tuning, AdamW",
    "shira": "SHiRA",
    "supertuning": "Super-Tuning",
    "masked": "dense gradients times a mask, dense AdamW",
    "fishdip": "Fish-Dip",
}
OURS = "fishdip-uniform@0.01"
NAMES = "frozen, lora, full, shira@DENSITY, supertuning@DENSITY, masked@DENSITY, fishdip-PATTERN@DENSITY"
DTYPES = ("float32", "bfloat16")
MAY_BE_ZERO = ("threads", "warmup", "seed", "dropout", "linear_from", "real_steps")
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


@dataclass(frozen=True)
class Method:
    """A way to train, such as `lora` or `fishdip-uniform@0.01`: its kind, the pattern of its mask and its density."""

    kind: str
    pattern: str = ""
    density: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.kind}{self.pattern and '-' + self.pattern}{f'@{self.density}' if self.density else ''}"

    @property
    def title(self) -> str:
        density = f", {100 * self.density:g} %" if self.density else ""
        return METHODS[self.kind] + density + (f", {self.pattern} mask" if self.pattern else "")

    @classmethod
    def parse(cls, text: str) -> Method:
        """The method of a name; a SettingsError if there is none."""
        kind, _, pattern = text.partition("@")[0].partition("-")
        try:
            method = cls(kind, pattern, float(text.partition("@")[2] or 0))
        except ValueError:
            method = cls("")
        sparse = method.kind in METHODS and method.kind not in ("frozen", "lora", "full")
        patterns = PATTERNS if method.kind == "fishdip" else ("",)
        fits = 0 < method.density <= 1 if sparse else "@" not in text
        if method.kind not in METHODS or method.pattern not in patterns or not fits:
            raise SettingsError(
                f"method {text!r} is unknown; there are {NAMES}, with a pattern of {', '.join(PATTERNS)} and a "
                "density in (0, 1]"
            )
        return method


def option(default: Any, group: str, text: str) -> Any:
    return field(default=default, metadata={"group": group, "help": text})


@dataclass(frozen=True)
class Settings:
    """All options; one with a tuple takes several words."""

    geometry: str = option("small", "model", f"size of the random T5: {', '.join(GEOMETRIES)}")
    dtype: str = option("float32", "model", f"data type of the weights: {', '.join(DTYPES)}")
    dropout: float = option(0.1, "model", "dropout rate of a random T5; active in training steps")
    device: str = option("cpu", "model", "cpu or cuda")
    threads: int = option(0, "model", "CPU threads of torch; 0: torch's default")
    batch: int = option(4, "model", "examples of a training step")
    source: int = option(128, "model", "tokens of a source")
    target: int = option(64, "model", "tokens of a target")
    seed: int = option(0, "model", "seed of weights, data, masks and the order of methods")
    rounds: int = option(5, "rounds", "measured rounds; each method has one turn per round, in random order")
    warmup: int = option(1, "rounds", "rounds before them that are not counted")
    repeats: int = option(1, "rounds", "steps per turn; their mean counts")
    density: float = option(0.01, "methods", "density at which methods are compared and targets hold")
    densities: tuple[float, ...] = option((0.001, 0.01, 0.05), "methods", "densities of Fish-Dip")
    patterns: tuple[str, ...] = option(
        *(("uniform", "clustered", "real"), "methods"),
        "masks of Fish-Dip. uniform: anywhere; clustered: within about 10 % of the rows and of the columns of each "
        "matrix; real: the most important entries after a short training",
    )
    methods: tuple[str, ...] = option(*((), "methods"), f"instead of the usual ones: {NAMES}")
    real_steps: int = option(10, "methods", "training steps before the real mask is chosen")
    children: int = option(3, "memory", "processes per method; each measures once")
    examples: int = option(400, "update", "examples of a mask update")
    step_batch: int = option(32, "update", "batch size of the training steps that an update is compared with")
    timed_steps: int = option(3, "update", "such steps measured per round; their median counts")
    interval: int = option(100, "update", "training steps per update")
    fisher_examples: int = option(25, "update", "examples of the Fisher comparison")
    fisher_lengths: tuple[int, ...] = option((16, 32, 64, 128), "update", "their tokens, of source and of target")
    new_tokens: int = option(32, "decode", "tokens to decode")
    decode_batch: int = option(1, "decode", "sentences decoded at once")
    file_dtypes: tuple[str, ...] = option(DTYPES, "files", "data types of the base whose adapters are saved")
    serving_adapters: int = option(100, "serving", "adapters over one base")
    serving_few: int = option(10, "serving", "of which so many come first, for comparison")
    serving_requests: int = option(50, "serving", "requests of a turn")
    serving_threads: int = option(8, "serving", "threads that serve them")
    geometries: tuple[str, ...] = option(("nano", "small", "base", "large"), "scale", "sizes, or SIZE:DTYPE")
    scale_methods: tuple[str, ...] = option(("frozen", OURS, "lora", "full"), "scale", "methods run at every size")
    scale_examples: int = option(20, "scale", "examples of the mask updates")
    linear_from: int = option(50_000_000, "scale", "smallest number of parameters that larger models are compared with")
    compiled_methods: tuple[str, ...] = option((OURS, "lora"), "compilation", "methods run in both ways")
    causal_model: str = option("", "causal", "folder or hub id; by default random weights, as large as gemma-3-270m")
    causal_batch: int = option(8, "causal", "rows of a training step")
    causal_tokens: int = option(40, "causal", "tokens of a prompt, and of its completion")
    causal_steps: int = option(80, "causal", "steps of the training whose mask updates are measured")
    causal_examples: int = option(64, "causal", "its examples")
    causal_interval: int = option(20, "causal", "its steps per update")
    largest: str = option("large:bfloat16", "largest", "size of the model that has to fit, or SIZE:DTYPE")
    largest_tokens: int = option(32, "largest", "tokens of its one source, and of its one target")

    def __post_init__(self) -> None:
        ours = (f"fishdip-{pattern}@0.01" for pattern in self.patterns)
        for text in (*self.methods, *self.scale_methods, *self.compiled_methods, *ours):
            Method.parse(text)
        for text in (self.geometry, *self.geometries, self.largest):
            if text.partition(":")[0] not in GEOMETRIES:
                raise SettingsError(f"geometry {text!r} is unknown; there are {', '.join(GEOMETRIES)}")
        for dtype in (
            self.dtype,
            *self.file_dtypes,
            *(text.partition(":")[2] for text in (*self.geometries, self.largest)),
        ):
            if dtype not in ("", *DTYPES):
                raise SettingsError(f"dtype {dtype!r} is unknown; there are {', '.join(DTYPES)}")
        for name, value in vars(self).items():
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, str):
                    check_number(name, number)

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


def check_number(name: str, value: float) -> None:
    least = "at least" if name in MAY_BE_ZERO else "greater than"
    if value < 0 or (value == 0 and least == "greater than"):
        raise SettingsError(f"{name}={value!r} must be {least} 0")
    if value > 1 and name in ("density", "densities", "dropout"):
        raise SettingsError(f"{name}={value!r} must be at most 1")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add --preset and one option per field; options that are not given stay out of the namespace."""
    gpu = "; ".join(f"{name} {in_words(value)}" for name, value in PRESETS["gpu"].items())
    parser.add_argument("--preset", choices=[*PRESETS], default="cpu", help=f"defaults; cpu: those below; gpu: {gpu}")
    groups: dict[str, Any] = {}
    for item in fields(Settings):
        group = groups.get(item.metadata["group"]) or parser.add_argument_group(item.metadata["group"])
        default, name = item.default, "--" + item.name.replace("_", "-")
        sample, nargs = (default[0] if default else "", "+") if isinstance(default, tuple) else (default, None)
        text = item.metadata["help"] + (f" (default: {in_words(default)})" if default != () else "")
        options: Any = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%"), "metavar": "X", "nargs": nargs}
        names = dict.fromkeys((name, name.replace("methods", "contestants")))  # the older name still works
        groups[item.metadata["group"]] = group
        group.add_argument(*names, dest=item.name, type=type(sample), **options)


def in_words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def settings_of(options: Mapping[str, Any]) -> Settings:
    """The defaults, changed by the preset and then by the options that were given; a SettingsError if one is wrong."""
    given = {item.name: options[item.name] for item in fields(Settings) if item.name in options}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return Settings(**{**PRESETS[options["preset"]], **given})
