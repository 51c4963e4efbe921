"""Which tensors on disk make which parameters of a model: transformers renames, fuses and splits some as it loads them.

`origins` follows what `transformers.core_model_loading` does with the names of a checkpoint, by that module's own
functions, so that a conversion of transformers is one here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key


class Origin:
    """Tensors on disk that make one parameter of the model, or several that are converted together.

    Attributes:
        target: name of the parameter, or of the first one.
        converter: what transformers converts with; None if the tensor on disk is the parameter.
        names: of the tensors on disk.
    """

    def __init__(self, target: str, converter: WeightConverter | None) -> None:
        self.target = target
        self.converter = converter
        self.names: list[str] = []
        self.patterns: list[str | None] = []

    def add(self, name: str, pattern: str | None) -> None:
        """A tensor on disk, and the pattern of the converter that its name matches."""
        self.names.append(name)
        self.patterns.append(pattern)

    def loaded(self, tensors: Mapping[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
        """The parameters by name that the tensors on disk make.

        Raises:
            ValueError: they cannot be converted, as where some are missing.
        """
        if self.converter is None:
            return {self.target: tensors[self.names[0]]}
        converter: Any = copy.deepcopy(self.converter)
        for name, pattern in zip(self.names, self.patterns, strict=True):
            converter.add_tensor(self.target, name, pattern, tensors[name])
        try:
            found = converter.convert(self.target, model=model, config=model.config)
        except Exception as error:  # any: it is code of each architecture
            raise ValueError(
                f"{self.names[0]!r} and the {len(self.names) - 1} other tensors on disk that make {self.target!r} "
                f"cannot be converted ({error}); get the files of the base model again"
            ) from error
        return {name: value[0] if isinstance(value, list) else value for name, value in found.items()}


def origins(model: PreTrainedModel, names: Iterable[str]) -> list[Origin]:
    """The origins of all parameters and buffers of a model, given the names of the tensors on disk.

    Tensors that the model does not use are left out. A parameter that stands on disk under several names, as tied ones
    may, has an origin for each.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    of_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    known: Any = model.state_dict()
    prefix = model.base_model_prefix
    found: list[Origin] = []
    converted: dict[str, Origin] = {}
    for name in sorted(names, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if target not in known and name in known:
            target, pattern = rename_source_key(name, [], [], prefix, known)
        if target not in known:
            continue
        if pattern is None:
            found.append(Origin(target, None))
            found[-1].add(name, None)
            continue
        if target not in converted:
            converted[target] = Origin(target, of_pattern[pattern])
            found.append(converted[target])
        converted[target].add(name, pattern)
    return found
