"""What an adapter changes of each tensor of its base model's files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from peft import PeftConfig, PeftModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoConfig, PreTrainedModel

from ..adapter.base_parameter import TunedParameter, active_views
from ..adapter.model_card import AUTO_CLASSES
from ..adapter.state import SparseDelta
from ..config import FishDipConfig
from ..fingerprint import Difference, TensorFingerprint, described, difference, fingerprint_of
from ..layers.layer import layers_of
from .base_files import BaseFiles, find_base, read_json, read_tensor
from .disk_names import Origin, origins

ADAPTER = "default"


class Change(NamedTuple):
    """The entries of a tensor on disk that have other bits with the adapter."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    positions: Tensor
    """int64, flat, ascending."""
    base: Tensor
    """The values on disk there, in the tensor's dtype."""
    values: Tensor
    """The values with the adapter there, in the tensor's dtype."""


def changes_of(
    adapter: str | PathLike[str], model: str | None = None, progress: bool = False
) -> tuple[BaseFiles, dict[str, Change]]:
    """The files of an adapter's base model, and what the adapter changes of each tensor there that it changes.

    The base model is not loaded as a whole, unless the adapter was saved compactly from one in half precision: its
    tensors are read one by one, or as many as transformers fuses. They are compared with the fingerprint that was saved
    with the adapter.

    Args:
        adapter: folder of the adapter.
        model: folder or Hub id of the base model, if it has another place than the adapter says.
        progress: show a bar on stderr.

    Raises:
        ValueError: the adapter or the base model is not there, damaged, of another kind, or they do not belong
            together; or a value would not be finite.
    """
    config = adapter_config(Path(adapter))
    name = model or config.base_model_name_or_path
    if not name:
        raise ValueError(f"{adapter} does not name its base model; pass model (--model)")
    base = find_base(name, None if model else config.revision)
    plain = model_without_values(base, config)
    known = origins(plain, base.tensors)
    first = {id(parameter): name for name, parameter in plain.named_parameters()}
    first_names = {name: first[id(tensor)] for name, tensor in plain.named_parameters(remove_duplicate=False)}
    tuned = tuned_parameters(PeftModel.from_pretrained(model_to_load_onto(base, config), str(adapter)))
    # what a converter makes beside its first parameter, only itself knows
    known = [origin for origin in known if origin.converter or first_names.get(origin.target) in tuned]
    different, complete = [], set()
    found: dict[str, Change] = {}
    saved = config.base_fingerprint or {}
    for origin in tqdm(known, desc="Reading the base model", disable=not progress):
        on_disk = {source: read_tensor(base, source) for source in origin.names}
        for target, weight in origin.loaded(on_disk, plain).items():
            parameter = tuned.get(first_names.get(target, target))
            if parameter is None:
                continue
            check_weight(parameter, weight, origin, base)
            if parameter.name in saved:
                different += changed(parameter.name, saved[parameter.name], weight)
            complete.add(parameter.name)
            own = changes_of_parameter(parameter, target, weight, origin, on_disk, plain)
            if twice := sorted(own.keys() & found.keys()):
                raise ValueError(
                    f"transformers makes several parameters of {twice[0]!r}, and the adapter tunes more than one; "
                    "save what merge_and_unload() returns instead"
                )
            found |= own
    missing = sorted(parameter.name for parameter in tuned.values() if parameter.name not in complete)
    if missing:
        raise ValueError(
            f"the files of {base.name!r} have no tensor for {missing[0]!r} ({len(missing)} such), which the adapter "
            "tunes: it was made for another model; pass its base model as model (--model)"
        )
    warn_of_other_base(different, len(tuned), config)
    return base, {name: found[name] for name in base.tensors if name in found}


def adapter_config(folder: Path) -> FishDipConfig:
    """The config of a saved adapter; ValueError if there is none that can be exported."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no adapter_config.json; pass the folder that save_pretrained has written")
    if (kind := read_json(path).get("peft_type")) != "FISHDIP":
        raise ValueError(f"{folder} is an adapter of the type {kind!r}, not FISHDIP; merge it with PEFT")
    config: Any = PeftConfig.from_pretrained(str(folder))
    if config.modules_to_save:
        raise ValueError(
            f"{folder} has modules that were trained whole ({', '.join(config.modules_to_save)}), which are no sparse "
            "changes of the base model's files: load it with PeftModel.from_pretrained, and save what "
            "merge_and_unload() returns"
        )
    found: FishDipConfig = config
    return found


def model_class(base: BaseFiles, own: Any, config: FishDipConfig) -> Any:
    """The class that the adapter was made for: that of its task, the one that PEFT saw, or that of the base's files."""
    seen = config.auto_mapping or {}
    seen_class = seen.get("base_model_class") if str(seen.get("parent_library")).startswith("transformers.") else None
    written = (getattr(own, "architectures", None) or [None])[0]
    name = AUTO_CLASSES.get(str(getattr(config.task_type, "value", config.task_type))) or seen_class or written
    kind: Any = getattr(transformers, str(name), None)
    if kind is None:
        raise ValueError(
            f"neither the adapter's task_type={config.task_type!r} nor the config of {base.name!r} names a class of "
            f"transformers (architectures: {written}); set task_type in adapter_config.json, such as CAUSAL_LM"
        )
    return kind


def model_without_values(base: BaseFiles, config: FishDipConfig) -> PreTrainedModel:
    """A model of the class that the adapter was made for, on the meta device."""
    own = AutoConfig.from_pretrained(base.folder)
    kind = model_class(base, own, config)
    with torch.device("meta"):
        found: PreTrainedModel = kind.from_config(own) if kind.__name__.startswith("Auto") else kind(own)
    return found


def model_to_load_onto(base: BaseFiles, config: FishDipConfig) -> PreTrainedModel:
    """A model that the adapter can be loaded onto: one without values, or the base model itself for the effective
    weights of a compact file, which are changes only in comparison with those of the base."""
    if not needs_base_values(config):
        return model_without_values(base, config)
    kind = model_class(base, AutoConfig.from_pretrained(base.folder), config)
    found: PreTrainedModel = kind.from_pretrained(base.folder, dtype="auto", use_safetensors=True)
    return found


def needs_base_values(config: FishDipConfig) -> bool:
    """Whether the file holds effective weights in half precision, see adapter/compact.py."""
    return any(not line.endswith(" float32") for line in (config.compact_storage or {}).values())


def tuned_parameters(model: Any) -> dict[str, TunedParameter]:
    """The parameters that the adapter targets, by their first name in the model."""
    return {parameter.name: parameter for layer in layers_of(model) for parameter in layer.tuned.values()}


def check_weight(parameter: TunedParameter, weight: Tensor, origin: Origin, base: BaseFiles) -> None:
    """Raise ValueError if a tensor of the base model cannot be what the adapter tunes."""
    if weight.shape != parameter.shape or not weight.is_floating_point():
        raise ValueError(
            f"{origin.names[0]!r} of {base.name!r} is {weight.dtype} of shape {tuple(weight.shape)}, and the adapter "
            f"tunes {parameter.name!r} of shape {tuple(parameter.shape)} there; pass its base model as model (--model)"
        )


def changed(name: str, saved: str, weight: Tensor) -> list[Difference]:
    """How a base tensor differs from the one that the adapter was trained on, if that matters."""
    now = fingerprint_of(weight)
    if now.line() == saved:
        return []
    found = difference(name, TensorFingerprint.read(saved), now)
    return [] if found.harmless else [found]


def warn_of_other_base(found: list[Difference], total: int, config: FishDipConfig) -> None:
    if found:
        warnings.warn(
            f"the base model is not the one that the adapter was saved with: {described(found, total)}. Its deltas add "
            "to other weights than those it was trained on. Pass the base it was made for "
            f"({config.base_model_name_or_path or 'it has no name'}) as model (--model).",
            UserWarning,
            stacklevel=3,
        )


def changes_of_parameter(
    parameter: TunedParameter,
    target: str,
    weight: Tensor,
    origin: Origin,
    on_disk: Mapping[str, Tensor],
    model: PreTrainedModel,
) -> dict[str, Change]:
    """What the adapter changes of the tensors on disk that make one parameter.

    Raises:
        ValueError: a value would not be finite, or the conversion computes with the values on disk.
    """
    deltas: tuple[SparseDelta, ...] = parameter.of([ADAPTER])
    if not deltas:
        return {}
    positions, base, values = parameter.entries(weight.contiguous(), deltas, active_views(deltas))
    positions, order = positions.sort()
    base, values = base[order], values[order]
    if not bool(values.isfinite().all()):
        bad = int(positions[~values.isfinite()][0])
        raise ValueError(
            f"{parameter.name!r} would be {float(values[~values.isfinite()][0])} at flat position {bad}: the adapter "
            "has diverged, or its values are too large for the base model's dtype; train it with a lower learning rate"
        )
    kept = different_bits(base, values)
    positions, base, values = positions[kept], base[kept], values[kept]
    if origin.converter is None:
        return as_change(origin.names[0], on_disk, positions, base, values)
    places = places_on_disk(target, origin, on_disk, model, positions)
    found: dict[str, Change] = {}
    start = 0
    for name in origin.names:
        count = on_disk[name].numel()
        here = ((places >= start) & (places < start + count)).nonzero().flatten()
        here = here[places[here].argsort()]
        at = places[here] - start
        start += count
        same = on_disk[name].reshape(-1)[at]
        if same.dtype != base.dtype or bool(different_bits(same, base[here]).any()) or at.unique().numel() < at.numel():
            raise ValueError(
                f"transformers computes {target!r} from {name!r} and does not just move its values, so that no change "
                "of the file is the adapter's; save what merge_and_unload() returns instead"
            )
        found |= as_change(name, on_disk, at, base[here], values[here])
    return found


def as_change(
    name: str, on_disk: Mapping[str, Tensor], positions: Tensor, base: Tensor, values: Tensor
) -> dict[str, Change]:
    tensor = on_disk[name]
    return {name: Change(tuple(tensor.shape), tensor.dtype, positions, base, values)} if positions.numel() else {}


def places_on_disk(
    target: str, origin: Origin, on_disk: Mapping[str, Tensor], model: PreTrainedModel, positions: Tensor
) -> Tensor:
    """Where entries of a parameter come from: positions in the tensors of the origin, counted one after the other.

    The conversion itself is asked, with numbered entries in place of the values.
    """
    numbered, start = {}, 0
    for name in origin.names:
        count = on_disk[name].numel()
        numbered[name] = torch.arange(start, start + count).view(on_disk[name].shape)
        start += count
    return origin.loaded(numbered, model)[target].reshape(-1)[positions]


def different_bits(a: Tensor, b: Tensor) -> Tensor:
    """Where two vectors of one dtype have different bits."""
    pairs = (tensor.contiguous().view(torch.uint8).view(tensor.numel(), -1) for tensor in (a, b))
    return torch.ne(*pairs).any(1)
