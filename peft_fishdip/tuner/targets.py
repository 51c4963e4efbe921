"""Which parameters of a model an adapter tunes, and which modules have to be wrapped for it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from peft import TaskType
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..adapter.combine import listed
from ..adapter.containers import is_vector
from ..adapter.initial import Target, Use
from ..adapter.memory import identity, overlapping, repeats_entries, share_entries
from ..config import FishDipConfig
from ..distributed import refuse_sharded
from ..layers.layer import FishDipLayer
from ..private import moved_by_accelerate
from ..quantization import backend_of, has_quantized_storage
from .arguments import check_names

HEADS: dict[Any, list[str]] = {TaskType.TOKEN_CLS: ["classifier", "score"], TaskType.QUESTION_ANS: ["qa_outputs"]}
"""Modules that a PeftModel trains whole, but adds to `modules_to_save` only after the adapter is in."""


def find_targets(model: nn.Module, config: FishDipConfig, in_peft_model: bool = True) -> list[Target]:
    """The parameters that `config` selects, in the order of the model.

    A tied parameter is one target: as soon as one of its modules is selected, all of them are wrapped.

    Args:
        in_peft_model: whether the adapter is one of a PeftModel, which trains the HEADS of its task whole. Elsewhere
            they are modules like any other.

    Raises:
        ValueError: a selected module owns no parameter, or one that cannot be tuned, or all are excluded; the message
            names it.
    """
    refuse_rescaled(model)
    modules = dict(visible_modules(model))
    owned = {name: dict(owned_parameters(module)) for name, module in modules.items()}
    attentions = [base(module) for module in modules.values() if isinstance(base(module), nn.MultiheadAttention)]
    read_from_outside = {id(attention.out_proj) for attention in attentions}

    selected: set[Hashable] = set()
    wanted = explicit(config, modules, heads_of(config, in_peft_model))
    excluded = {name for name in modules if not checked_by_name(wanted, plain_name(name))}
    for name in modules:
        if name in excluded:
            continue
        plain = plain_name(name)
        matched = check_target_module_exists(wanted, plain) and checked_by_name(wanted, plain, in_any_layer=False)
        if matched and (config.layers_to_transform is None or "." in name):
            if not owned[name] and isinstance(config.target_modules, (set, list)):
                raise ValueError(
                    f"target_modules={sorted(config.target_modules)} selects {name!r}, which owns no parameter that "
                    "could be tuned; name the modules inside of it, or use a regex."
                )
            selected.update(identity(tensor) for tensor in owned[name].values())
    for name in excluded:  # also where an exclusion names one use of a tied parameter, or the inside of an attention
        selected.difference_update(identity(tensor) for tensor in owned[name].values())

    uses: dict[Hashable, list[Use]] = {}
    tensors: dict[Hashable, tuple[str, nn.Parameter]] = {}
    for name, parameters in owned.items():
        if id(base(modules[name])) in read_from_outside:
            continue  # nn.MultiheadAttention reads and owns them
        for leaf, tensor in parameters.items():
            key = identity(tensor)
            if key in selected and tensor.numel():  # some models have parameters without any entry
                tensors.setdefault(key, (f"{plain_name(name)}.{leaf}", tensor))
                uses.setdefault(key, []).append(Use(name, leaf))
    targets = []
    for key, (name, tensor) in tensors.items():
        module = base(modules[uses[key][0].module])
        targets.append(Target(name, tensor, uses[key], module, backend_of(model, module, uses[key][0].parameter)))
    for target in targets:
        refuse_unsupported(target, modules)
    refuse_offloaded(model, targets)
    refuse_overlaps(model, targets)
    if not targets and config.layers_to_transform is not None:
        raise ValueError(
            f"layers_to_transform={config.layers_to_transform!r} leaves nothing to tune: no targeted module is in "
            "such a layer; the first layer is 0."
        )
    included = copy.copy(config)
    included.exclude_modules = None
    if not targets and config.exclude_modules and find_targets(model, included, in_peft_model):
        raise ValueError(
            f"exclude_modules={config.exclude_modules!r} leaves nothing to tune: all modules that target_modules="
            f"{config.target_modules!r} selects are excluded."
        )
    if config.target_modules is None:
        warn_of_the_unreachable(model, (tensor for parameters in owned.values() for tensor in parameters.values()))
    return targets


def refuse_name(adapter_name: str) -> None:
    """Raise ValueError for the name of an adapter under which torch cannot keep it, TypeError if it is no text."""
    check_names(adapter_name)
    if not adapter_name or "." in adapter_name or hasattr(nn.ModuleDict, adapter_name):
        raise ValueError(
            f"adapter_name={adapter_name!r} cannot be a key of torch.nn.ModuleDict, where adapters are kept: it is "
            "empty, has a dot, or is the name of a method there; choose another."
        )


def target_what_is_in(state_dict: Mapping[str, Any], config: FishDipConfig) -> None:
    """Have a config target the modules that an adapter's state dict names, whatever it selected.

    A compact state dict names no modules, and changes nothing.

    Raises:
        ValueError: the state dict has no entry of a Fish-Dip adapter.
    """
    named = [key for key in state_dict if ".fishdip_" in key]
    if not named:
        raise ValueError(
            f"state_dict has no entries of a Fish-Dip adapter among its {len(state_dict)} ({listed(state_dict)}); pass "
            "what get_peft_model_state_dict gives, or leave it out."
        )
    if any(is_vector(key) for key in named):
        return
    config.target_modules = {key.rsplit(".fishdip_", 1)[0].removeprefix("base_model.model.") for key in named}
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None


def with_linear_names(config: FishDipConfig, model: nn.Module) -> FishDipConfig:
    """The config with `target_modules="all-linear"` replaced by the names of the linear modules, in place.

    As with PEFT's other methods, these are all nn.Linear and Conv1D but the output embeddings of a language model and
    the new head of a sequence classifier.
    """
    if isinstance(config.target_modules, str) and config.target_modules.lower() == "all-linear":
        head = None
        if isinstance(model, PreTrainedModel):
            head = model.get_output_embeddings()
            if head is None and config.task_type == TaskType.SEQ_CLS:
                head = getattr(model, "score", None) or getattr(model, "classifier", None)
        config.target_modules = {
            plain_name(name)
            for name, module in visible_modules(model)
            if isinstance(base(module), (nn.Linear, Conv1D)) and module is not head and base(module) is not head
        }
    return config


def checked_by_name(config: FishDipConfig, name: str, in_any_layer: bool = True) -> Any:
    """PEFT's answer for a module that is targeted by its very name.

    It is false for a module that is excluded, in the form that PEFT has for it, or is in another layer than those of
    `layers_to_transform`, which count only if `in_any_layer` is False.
    """
    by_name = copy.copy(config)
    by_name.target_modules = [f"_.{name}".rpartition(".")[2]]
    if in_any_layer:
        by_name.layers_to_transform = by_name.layers_pattern = None
    return check_target_module_exists(by_name, name)


def heads_of(config: FishDipConfig, in_peft_model: bool) -> list[str]:
    """The HEADS that an adapter leaves out.

    Outside of a PeftModel there are none, but for adapters that were saved without their head.
    """
    heads = HEADS.get(config.task_type, [])
    saved, _ = config.checkpointed()
    if in_peft_model:
        return heads
    return [] if saved is None or any(set(name.split(".")) & {*heads} for name in saved) else heads


def explicit(config: FishDipConfig, names: Iterable[str], heads: list[str]) -> FishDipConfig:
    """The config with names in place of `target_modules=None`, and with all modules that PEFT trains whole."""
    spelled_out = copy.copy(config)
    if config.target_modules is None:
        spelled_out.target_modules = {plain_name(name).rpartition(".")[2] for name in names}
    if heads:
        spelled_out.modules_to_save = [*(config.modules_to_save or []), *heads]
    return spelled_out


def visible_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of the base model and the layers around them, without modules of adapters.

    A wrapped module is given once, as its layer. Modules that PEFT trains and saves whole are left out.
    """

    def walk(name: str, module: nn.Module, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
        if id(module) in seen:
            return
        seen.add(id(module))
        if name:
            yield name, module
        inner, prefix = base(module), f"{name}.base_layer" if isinstance(module, FishDipLayer) else name
        if isinstance(inner, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            return
        for leaf, child in inner.named_children():
            yield from walk(f"{prefix}.{leaf}" if prefix else leaf, child, seen)

    yield from walk("", model, set())


def base(module: nn.Module) -> nn.Module:
    return module.base_layer if isinstance(module, FishDipLayer) else module


def plain_name(name: str) -> str:
    """The name of a module in the unwrapped model."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


def owned_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that a module owns directly and reads in its forward.

    nn.MultiheadAttention reads those of its out_proj without calling it, so they count as its own. Lists and dicts of
    parameters have no forward; their parameters are read elsewhere.
    """
    module = base(module)
    if isinstance(module, (nn.ParameterList, nn.ParameterDict)):
        return
    yield from module.named_parameters(recurse=False)
    if isinstance(module, nn.MultiheadAttention):
        for leaf, tensor in module.out_proj.named_parameters(recurse=False):
            yield f"out_proj.{leaf}", tensor


def refuse_unsupported(target: Target, modules: Mapping[str, nn.Module]) -> None:
    """Raise ValueError for weights whose storage cannot be read, and for modules that rewrite their own weight."""
    tensor = target.tensor
    refuse_sharded(target.name, tensor, tensor.shape)
    if has_quantized_storage(tensor) and (target.backend is None or len(target.uses) > 1):
        raise ValueError(
            f"{target.name!r} is a {type(tensor).__name__} of dtype {tensor.dtype}: Fish-Dip tunes float32, float16, "
            "bfloat16 and float64 weights, and those of linear layers that bitsandbytes or torchao have quantized, "
            "not tied. Load the base model without quantization, or leave the module out with exclude_modules."
        )
    for use in target.uses:
        module = base(modules[use.module])
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None:
            raise ValueError(
                f"the embedding {use.module!r} has max_norm={module.max_norm} and rewrites its own weight; exclude it."
            )


def refuse_rescaled(model: nn.Module) -> None:
    """Raise ValueError for RWKV models that change their weights in place, past an adapter, between train and eval."""
    for module in model.modules():
        every = getattr(getattr(module, "config", None), "rescale_every", 0)
        if every and hasattr(module, "layers_are_rescaled"):
            raise ValueError(
                f"{type(module).__name__} with rescale_every={every} rescales its weights in place when it goes from "
                "training to evaluation, and would leave the deltas out; load it with rescale_every=0."
            )


def refuse_offloaded(model: nn.Module, targets: Iterable[Target]) -> None:
    """Raise ValueError if accelerate keeps targets elsewhere, and brings them only for the calls of their module."""
    away = [target.name for target in targets if target.tensor.is_meta]
    places = getattr(model, "hf_device_map", None) or {}
    if away and (moved_by_accelerate(model) or {"cpu", "disk"} & {str(place) for place in places.values()}):
        raise ValueError(
            f"{listed(away)} are offloaded to the CPU or the disk (device_map, cpu_offload or disk_offload of "
            "accelerate), and Fish-Dip needs the weights that it tunes in place: load the base on one device, in "
            "half precision or quantized if memory is short; or leave the offloaded modules out with exclude_modules."
        )


def refuse_overlaps(model: nn.Module, targets: Iterable[Target]) -> None:
    """Raise ValueError if a delta to one tensor would also change another one, which is not the same parameter."""
    tuned = {identity(target.tensor): target for target in targets}
    for target in tuned.values():
        if repeats_entries(target.tensor):
            raise ValueError(
                f"several entries of {target.name!r}, of shape {tuple(target.shape)} and strides "
                f"{target.tensor.stride()}, are one number in memory, as in an expanded tensor: give each its own, as "
                ".contiguous() does, before the adapter is added, or leave the module out with exclude_modules."
            )
    buffers = {id(tensor) for tensor in model.buffers()}
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for (name, tensor), (other, of_other) in overlapping(tensors):
        keys = identity(tensor), identity(of_other)
        either_is_tuned = any(key in tuned for key in keys)
        one_parameter = keys[0] == keys[1] and not buffers & {id(tensor), id(of_other)}
        if either_is_tuned and not one_parameter and tensor is not of_other and share_entries(tensor, of_other):
            raise ValueError(
                f"{plain_name(name)!r} of shape {tuple(tensor.shape)} and {plain_name(other)!r} of shape "
                f"{tuple(of_other.shape)} share memory, and are not one parameter: a delta to one would change the "
                "other. Give each its own memory, as .clone() does, before the adapter is added, or leave both out "
                "with exclude_modules."
            )


def warn_of_the_unreachable(model: nn.Module, reached: Iterable[nn.Parameter]) -> None:
    """Warn of parameters that stay frozen although all were selected, because no module owns and reads them."""
    reached_ids = {identity(tensor) for tensor in reached}
    owners = [(f"{name}." if name else "", module) for name, module in model.named_modules()]
    left = {
        prefix + leaf
        for prefix, module in owners
        if module is model or isinstance(module, (nn.ParameterList, nn.ParameterDict))
        for leaf, tensor in module.named_parameters(recurse=False)
        if identity(tensor) not in reached_ids
    }
    if left:
        warnings.warn(
            f"the parameters {', '.join(sorted(left))} belong to the model itself or to a list, not to a module that "
            "could be wrapped, and stay frozen.",
            UserWarning,
            stacklevel=2,
        )
