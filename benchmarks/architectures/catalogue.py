"""The architectures that the installed transformers has: for each model type its config and one model class."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, model_type_to_module_name

FIRST_TASKS = (
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "MASKED_LM",
    "PRETRAINING",
    "SPEECH_SEQ_2_SEQ",
    "CTC",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "SEQUENCE_CLASSIFICATION",
    "IMAGE_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
)
"""Tasks whose model class is preferred, in this order; then come all other tasks, then models without a head."""
GROUPS = {"time": "other", "image": "vision", "video": "vision", "audio": "audio", "text": "text"}
SEVERAL = "several kinds of input"


@dataclass(frozen=True)
class Architecture:
    """A model type of transformers, by the class that stands for it."""

    model_type: str
    class_names: tuple[str, ...]
    """The classes for this model type, preferred ones first."""

    @property
    def config_class(self) -> type[PreTrainedConfig]:
        found: type[PreTrainedConfig] = CONFIG_MAPPING[self.model_type]
        return found

    @functools.cached_property
    def model_class(self) -> Any:
        """The first class that takes the config as a whole, not a part of it; the import may take a second."""
        classes = [getattr(transformers, name) for name in self.class_names]
        return next((found for found in classes if found.config_class is self.config_class), classes[0])

    @property
    def group(self) -> str:
        """What it reads: "text", "vision", "audio", "other", or `SEVERAL`."""
        kinds = self.model_class.input_modalities
        groups = {GROUPS.get(kind, "other") for kind in ([kinds] if isinstance(kinds, str) else kinds)}
        return groups.pop() if len(groups) == 1 else SEVERAL


@functools.cache
def architectures() -> dict[str, Architecture]:
    """All architectures by model type, in alphabetical order.

    Parts of an architecture that have a model type of their own, such as the two towers of CLIP, are left out, and so
    are model types that have the class of another one.
    """
    names = class_names()
    classes = {model_type: found[0] for model_type, found in names.items()}
    parts = parts_of_others(classes)
    by_class: dict[str, list[str]] = {}
    for model_type in sorted(classes.keys() - parts):
        by_class.setdefault(classes[model_type], []).append(model_type)
    chosen = [min(types, key=lambda name: CONFIG_MAPPING[name].model_type != name) for types in by_class.values()]
    return {model_type: Architecture(model_type, tuple(names[model_type])) for model_type in sorted(chosen)}


def class_names() -> dict[str, list[str]]:
    """By model type the names of its classes, preferred ones first."""
    found: dict[str, list[str]] = {}
    known = set(dir(transformers))  # hasattr would import them all
    for mapping in mappings():
        for model_type, names in mapping.items():
            name = names if isinstance(names, str) else names[0]
            if model_type in CONFIG_MAPPING and name in known:
                found.setdefault(model_type, []).append(name)
    return found


def mappings() -> Iterator[Mapping[str, Any]]:
    """transformers' tables of model classes, preferred ones first."""
    prefix, suffix = "MODEL_FOR_", "_MAPPING_NAMES"
    tasks = [name[len(prefix) : -len(suffix)] for name in dir(modeling_auto) if name.endswith(suffix)]
    tasks = [name for name in tasks if f"{prefix}{name}{suffix}" in vars(modeling_auto) and name not in FIRST_TASKS]
    for task in [*FIRST_TASKS, *sorted(tasks)]:
        yield getattr(modeling_auto, f"{prefix}{task}{suffix}")
    yield modeling_auto.MODEL_MAPPING_NAMES


def parts_of_others(classes: Mapping[str, str]) -> set[str]:
    """Model types whose config is a part of the config of another type of the same folder."""
    folders: dict[str, list[str]] = {}
    for model_type in classes:
        folders.setdefault(model_type_to_module_name(model_type), []).append(model_type)
    parts: set[str] = set()
    for together in folders.values():
        if len(together) == 1:
            continue
        for model_type in together:
            specs = CONFIG_MAPPING[model_type].sub_configs_defaults.values()
            parts.update(spec.model_type for spec in specs if spec.model_type != model_type)
    return parts
