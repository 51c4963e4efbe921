"""What a user can choose about a Fish-Dip adapter."""

from __future__ import annotations

import copy
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field, fields
from textwrap import fill
from typing import Any, Literal, TypeVar, get_args

from peft import PeftConfig
from peft.utils import CONFIG_NAME

from .criteria import ImportanceFunction, is_known, known_names, name_of, registered_name
from .fingerprint import checked_fingerprint
from .registration import PEFT_TYPE
from .schedule import AUTO, Interval

SampleSelection = Literal["highest_loss", "random", "all"]
ExampleLoss = Literal["sum", "mean"]
Dropped = Literal["freeze", "reset"]
InitMask = Literal["random", "magnitude"]
DeltaScale = Literal["auto", "rms", "none"]

CHOICES = {
    "sample_selection": get_args(SampleSelection),
    "example_loss": get_args(ExampleLoss),
    "dropped": get_args(Dropped),
    "init_mask": get_args(InitMask),
    "delta_scale": get_args(DeltaScale),
}

STORAGE = re.compile(r"\d{1,15} (?:float32|bfloat16|float16)", re.ASCII)

INJECTED = "_injected"
"""Attribute that a config has while its adapter is put into a model."""
AfterSave = Callable[[str, "FishDipConfig", Mapping[str, str] | None], None]
"""Called with the folder, the config and PEFT's `auto_mapping` when adapter_config.json has been written."""


C = TypeVar("C", bound=type)


def setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def with_fields_in_help(cls: C) -> C:
    """Append each field's default and description to the docstring, which `help` shows."""
    lines = []
    for each in fields(cls):
        if "help" in each.metadata and each.name in cls.__annotations__:
            text = f"{each.name} = {each.default!r}: {each.metadata['help']}"
            lines.append(fill(text, 112, initial_indent=" " * 8, subsequent_indent=" " * 12))
    cls.__doc__ = "\n".join([f"{(cls.__doc__ or '').rstrip()}\n\n    Args:", *lines])
    return cls


@with_fields_in_help
@dataclass
class FishDipConfig(PeftConfig):
    """Configuration of a [`FishDipModel`].

    Fish-Dip (Das et al., EMNLP 2023) trains K = floor(density * N) of the N targeted base parameters. Every
    so many optimizer steps (`update_interval`) the K entries are chosen anew: those with the largest empirical Fisher
    information (Eq. 1 of the paper) over the training examples that the model still gets most wrong (Eq. 2).

    Fixed FISH (Sung et al., 2021) is the same with `update_interval=None, sample_selection="random"`.

    Raises:
        ValueError: a field has a value outside of its range or choices; the message names field, value and remedy.
        TypeError: a field has a value of the wrong type.
    """

    target_modules: list[str] | set[str] | str | None = setting(
        None,
        "Names (suffixes) or a regex of the modules to tune. None: every module that directly owns parameters (Linear, "
        "Embedding, norms, convolutions, relative bias), as in the paper. 'all-linear' works.",
    )
    exclude_modules: list[str] | set[str] | str | None = setting(
        None, "Names (suffixes) or a regex of modules that are not tuned."
    )
    layers_to_transform: list[int] | int | None = setting(
        None, "Indices of the layers to tune; needs a list of target_modules."
    )
    layers_pattern: list[str] | str | None = setting(
        None, "Name of the list of layers that layers_to_transform counts in."
    )
    modules_to_save: list[str] | None = setting(
        None, "Modules that are trained and saved whole, such as a new classifier."
    )
    density: float = setting(0.01, "Share of the targeted parameters that is trainable at any time, in (0, 1].")
    update_interval: Interval = setting(
        AUTO,
        "Optimizer steps between two masks. 'auto': masks at steps 0, 10, 20, 40, 80 and 160, then every 100 steps. "
        "None: the mask of the first update stays.",
    )
    num_samples: int | float = setting(
        0.1,
        "Examples whose gradients score the parameters. An int is a count; a float is a share of the examples scored, "
        "clamped to [3, 25] examples.",
    )
    sample_selection: SampleSelection = setting(
        "highest_loss", "Which examples score the parameters: 'highest_loss', 'random' or 'all'."
    )
    importance: str | ImportanceFunction = setting(
        "fisher",
        "'fisher': mean squared per-sample gradient of log p(y|x); 'absolute': mean magnitude; 'gradient': magnitude "
        "of the mean gradient; 'magnitude' of the weights; 'gallop'; 'lift'; a name of `register_importance`; or a "
        "function of a parameter and the examples' gradients there. Of a function, its name alone is saved.",
    )
    example_loss: ExampleLoss = setting(
        "sum", "-log p(y|x) of an example: 'sum' (Eq. 1) or 'mean' over its target tokens."
    )
    dropped: Dropped = setting(
        "freeze", "Entries that leave the mask: 'freeze' keeps their deltas, 'reset' returns them to the base value."
    )
    max_support: float | None = setting(
        2.0,
        "Most entries that have a delta, in multiples of K, so that adapters do not grow with each mask: a mask update "
        "returns the inactive entries with the smallest deltas to the base value. 1: dropped='reset'. None: no bound.",
    )
    init_mask: InitMask = setting("random", "Mask before the first update: 'random', or 'magnitude' of the base.")
    delta_scale: DeltaScale = setting(
        "auto",
        "Unit of the trained values. 'auto': 8 times the base tensor's RMS (at most 1), 64 times in T5 models (rounded "
        "to a power of two), so that AdamW at its usual rates, such as 1e-3, moves every tensor by the same, sound "
        "share of its size. 'rms': the RMS itself, for rates near 1e-2. 'none': 1, as in the paper. Importance is "
        "measured in the same unit.",
    )
    auto_update: bool = setting(
        True,
        "The mask is updated by training itself, before the first optimizer step and as update_interval says. It "
        "ends when FishDipCallback, update_mask, set_mask or recent_examples is used. False: only these update it.",
    )
    compact: bool = setting(
        False,
        "Save small files: positions take about one byte each. Once no parameter of the model is trainable any more, "
        "the values of half precision base weights take two bytes: they are the effective weights, which load to the "
        "same bits onto this base. While there is training to go on, values stay float32, so that it can be resumed.",
    )
    seed: int = setting(0, "Seed of the random mask, random deltas and random examples.")
    init_weights: bool = setting(True, "True: all deltas start at zero. False: random deltas, for tests.")
    support_sizes: dict[str, int] | None = setting(
        None, "Written by the tuner: per base parameter the number of entries that have a delta."
    )
    base_fingerprint: dict[str, str] | None = setting(
        None, "Written by the tuner: per base parameter its dtype, shape and digests, see fingerprint.py."
    )
    id2label: dict[int, str] | None = setting(
        None, "Written by the tuner: of a classifier, the names of its classes by their numbers."
    )
    compact_storage: dict[str, str] | None = setting(
        None,
        "Written by the tuner for a compact file: per base parameter the bytes of its positions, and the dtype of its "
        "values.",
    )
    strict: bool = setting(
        False,
        "While an adapter is loaded: refuse a base model that is not bitwise the one it was saved with, instead of "
        "warning. Not saved. PeftModel.from_pretrained(base, path, strict=True), or where a config is taken "
        "FishDipConfig.from_pretrained(path, strict=True).",
    )

    # written by earlier versions: active and inactive entries per base parameter, and the number of mask updates
    counts: InitVar[dict[str, list[int]] | None] = None
    num_updates: InitVar[int] = 0

    @property
    def trainable_token_indices(self) -> dict[str, list[int]] | None:
        """No tokens. With None, PEFT would store the whole base embedding with an adapter that targets it.

        None in an injection, where PEFT would ask the model for its embedding otherwise, and some models have none.
        """
        return None if INJECTED in self.__dict__ else {}

    def __post_init__(self, counts: dict[str, list[int]] | None, num_updates: int) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        self._check_names()
        if self.modules_to_save is not None:
            self.modules_to_save = list(self.modules_to_save)  # PEFT appends to it
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        self._check_layers()
        self._check_numbers()
        self._check_importance()
        if counts is not None:
            self.support_sizes = sizes_of_counts(counts)
        if self.support_sizes is not None:
            self.support_sizes = checked_sizes(self.support_sizes)
        if self.id2label is not None:
            self.id2label = checked_classes(self.id2label)
        if not is_index(num_updates):
            raise ValueError(f"num_updates={num_updates!r} must be an int >= 0; it is written by the tuner.")
        if self.compact_storage is not None:
            self.compact_storage = checked_storage(self.compact_storage)
        self._num_updates = num_updates
        self._of_version_0_1 = counts is not None
        self._of_saved_adapter = False
        self._after_save: AfterSave | None = None
        if self.base_fingerprint is not None:
            self.base_fingerprint = checked_fingerprint(self.base_fingerprint)

    def prepare_save(
        self,
        sizes: dict[str, int],
        fingerprint: dict[str, str],
        classes: dict[int, str],
        storage: dict[str, str] | None,
        after_save: AfterSave,
    ) -> None:
        """Set what the checkpoint of an adapter with this config needs, just before PEFT saves both; `after_save` is
        called once, when the config has been written. `storage` is that of a compact file.

        A config may serve for several adapters, so what was set for one of them is ignored when another is made.
        """
        self.support_sizes = sizes
        self.base_fingerprint = fingerprint or None
        self.id2label = classes or None
        self.compact_storage = storage
        self._of_saved_adapter = True
        self._after_save = after_save

    def checkpointed(self) -> tuple[dict[str, int] | None, int]:
        """Support sizes of the checkpoint that this config was read from, and its number of mask updates, which only
        earlier versions wrote here; (None, 0) if there is none."""
        return (None, 0) if self._of_saved_adapter else (self.support_sizes, self._num_updates)

    def checkpointed_storage(self) -> dict[str, tuple[int, str]]:
        """Per parameter the bytes of its positions and the dtype of its values in the compact checkpoint that this
        config was read from; empty if there is none."""
        lines = {} if self._of_saved_adapter else self.compact_storage or {}
        return {name: (int(line.split()[0]), line.split()[1]) for name, line in lines.items()}

    @property
    def awaits_version_0_1(self) -> bool:
        """Whether the checkpoint that this config was read from is one of version 0.1."""
        return self._of_version_0_1 and not self._of_saved_adapter

    def expected_fingerprint(self) -> dict[str, str] | None:
        """The fingerprint of the base that a checkpoint was saved with; None if there is no checkpoint."""
        return None if self._of_saved_adapter else self.base_fingerprint

    def to_dict(self) -> dict[str, Any]:
        """The fields, without `strict`, which is chosen anew at each load; a function by its name."""
        named = copy.copy(self)
        named.importance = name_of(self.importance)
        fields: dict[str, Any] = super(FishDipConfig, named).to_dict()
        del fields["strict"]
        return fields

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write adapter_config.json as a whole: if the save is interrupted, the file of an earlier one stays."""
        os.makedirs(save_directory, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=save_directory, prefix=".saving-") as folder:
            super().save_pretrained(folder, **kwargs)
            os.replace(os.path.join(folder, CONFIG_NAME), os.path.join(save_directory, CONFIG_NAME))
        after_save, self._after_save = self._after_save, None
        if after_save is not None:
            after_save(os.fspath(save_directory), self, kwargs.get("auto_mapping_dict"))

    def _check_names(self) -> None:
        for name in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save"):
            value = getattr(self, name)
            if value is None or (isinstance(value, str) and name != "modules_to_save"):
                continue
            if not isinstance(value, (list, set, tuple)) or not all(isinstance(entry, str) for entry in value):
                form = "a list of names" if name == "modules_to_save" else "a name or a list of names"
                raise TypeError(f"{name}={value!r} must be {form}.")
        if self.modules_to_save is not None and "" in self.modules_to_save:
            raise ValueError(
                f"modules_to_save={self.modules_to_save!r} has an empty name; name modules to train, or leave it out."
            )

        for name in ("target_modules", "exclude_modules", "layers_pattern"):
            value = getattr(self, name)
            patterns = [value] if isinstance(value, str) else (value or []) if name == "layers_pattern" else []
            for pattern in patterns:
                check_pattern(name, pattern)

    def _check_layers(self) -> None:
        layers = self.layers_to_transform
        if layers is not None and not all(map(is_index, layers if isinstance(layers, (list, tuple)) else [layers])):
            raise TypeError(f"layers_to_transform={layers!r} must be the index of a layer, from 0, or a list of them.")
        if self.layers_pattern and layers is None:
            raise ValueError(
                f"layers_pattern={self.layers_pattern!r} says where layers_to_transform counts; set that too."
            )

    def _check_numbers(self) -> None:
        if not is_number(self.density):
            raise TypeError(f"density={self.density!r} must be a number in (0, 1], such as 0.01.")
        if not 0 < self.density <= 1:
            raise ValueError(f"density={self.density!r} is outside of (0, 1]; 0.01 trains 1 % of the parameters.")
        interval, samples = self.update_interval, self.num_samples
        if interval not in (None, AUTO) and not is_count(interval):
            must = "must be a positive int (optimizer steps), 'auto', or None for a mask that stays."
            raise ValueError(f"update_interval={interval!r} {must}")
        if not isinstance(samples, float) and not is_count(samples):
            raise ValueError(f"num_samples={samples!r} must be a positive int or a float in (0, 1].")
        if isinstance(samples, float) and not 0 < samples <= 1:
            must = "a float is a share of the examples and must lie in (0, 1]; give an int for a count."
            raise ValueError(f"num_samples={samples!r}: {must}")
        if self.max_support is not None and not (is_number(self.max_support) and 1 <= self.max_support < float("inf")):
            raise ValueError(
                f"max_support={self.max_support!r} must be a number >= 1, such as 2.0 for twice the entries that are "
                "trainable at any time, or None."
            )
        if not is_index(self.seed) or self.seed >= 2**63:
            raise ValueError(f"seed={self.seed!r} must be an int in [0, 2**63).")
        for name in ("init_weights", "strict", "auto_update", "compact"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}={getattr(self, name)!r} must be True or False.")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(choices)}.")

    def _check_importance(self) -> None:
        value = self.importance
        if callable(value):
            self.importance = registered_name(value) or value
        if isinstance(value, str) and self.support_sizes is not None:
            return  # of a saved adapter: the function is missed only where the mask is updated
        if not callable(value) and not is_known(value):
            raise ValueError(
                f"importance={value!r} is unknown; choose one of {', '.join(known_names())}, give a function, or call "
                "register_importance first."
            )


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_count(value: Any) -> bool:
    return is_index(value) and value > 0


def check_pattern(name: str, pattern: str) -> None:
    """Raise ValueError for a text of a field that is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{name}={pattern!r} is no regular expression: {error}. Correct it, with a backslash before what is meant "
            "literally; modules can also be given as a list of their names."
        ) from error


def checked_sizes(sizes: Any) -> dict[str, int]:
    """A copy of `support_sizes`; raises ValueError for anything else, as in a damaged adapter_config.json."""
    if not isinstance(sizes, dict):
        raise ValueError(f"support_sizes={sizes!r} must map base parameters to numbers; leave it to the tuner.")
    for name, size in sizes.items():
        if not isinstance(name, str) or not is_index(size):
            raise ValueError(f"support_sizes[{name!r}]={size!r} must be an int >= 0; the adapter's config is damaged.")
    return dict(sizes)


def checked_classes(classes: Any) -> dict[int, str]:
    """A copy of `id2label`, with numbers for JSON's texts; raises ValueError for anything else."""
    if not isinstance(classes, dict):
        raise ValueError(f"id2label={classes!r} must map numbers to names of classes; leave it to the tuner.")
    found = {int(number) if str(number).isdecimal() else -1: name for number, name in classes.items()}
    if sorted(found) != list(range(len(classes))) or not all(isinstance(name, str) for name in found.values()):
        raise ValueError(f"id2label={classes!r} must name the classes 0, 1, ...; the adapter's config is damaged.")
    return found


def checked_storage(lines: Any) -> dict[str, str]:
    """A copy of `compact_storage`; raises ValueError for anything else, as in a damaged adapter_config.json."""
    if not isinstance(lines, dict):
        raise ValueError(f"compact_storage={lines!r} must map base parameters to text; leave it to the tuner.")
    for name, line in lines.items():
        if not isinstance(name, str) or not isinstance(line, str) or STORAGE.fullmatch(line) is None:
            raise ValueError(
                f"compact_storage[{name!r}]={line!r} must be a number of bytes and a dtype, such as '1043 bfloat16'; "
                "the adapter's config is damaged."
            )
    return dict(lines)


def sizes_of_counts(counts: Any) -> dict[str, int]:
    """Support sizes from the pairs of active and inactive entries that earlier versions wrote; else ValueError."""
    if not isinstance(counts, dict):
        raise ValueError(f"counts={counts!r} must map base parameters to pairs of numbers; leave it to the tuner.")
    for name, pair in counts.items():
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(type(n) is int and n >= 0 for n in pair):
            raise ValueError(f"counts[{name!r}]={pair!r} must be two ints >= 0; the adapter's config is damaged.")
    return {name: sum(pair) for name, pair in counts.items()}
