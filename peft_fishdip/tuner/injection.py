"""Puts an adapter into a model, and takes adapters out again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from weakref import ref

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..adapter.atomic import repeat_once
from ..adapter.base_parameter import TunedParameter, fingerprints
from ..adapter.combine import listed
from ..adapter.containers import Values, unwatch_loads, watch_loads
from ..adapter.initial import Target, auto_unit, delta_scale, first_positions, first_values, start_afresh
from ..adapter.memory import identity
from ..adapter.state import AdapterState, SparseDelta
from ..config import FishDipConfig
from ..fingerprint import described, differences
from ..layers.layer import FishDipLayer, layers_of
from ..layers.linear import FishDipEmbedding, FishDipLinear
from ..layers.norm import FishDipNorm, is_norm
from ..layers.quantized import FishDipQuantizedLinear
from ..private import own_submodules
from ..quantization import backend_of, keep_readable
from .auto_update import AutoUpdate
from .copies import watch
from .generation import remove_generate
from .guards import put_guards, remove_guards

NESTED = "_use_nested_tensor_without_fishdip"


class Injection:
    """An adapter that is to be put into a model."""

    def __init__(
        self,
        model: nn.Module,
        adapter_name: str,
        config: FishDipConfig,
        targets: list[Target],
        restore: Callable[[], None],
    ) -> None:
        self.model = model
        self.adapter_name = adapter_name
        self.config = config
        self.targets = targets
        self.restore = restore
        self.found = {use.module for target in targets for use in target.uses}
        known = {
            identity(layer.base_parameter(name)): parameter
            for layer in layers_of(model)
            for name, parameter in layer.tuned.items()
        }
        self.tuned = [
            known.get(identity(target.tensor)) or TunedParameter(target.name, target.shape) for target in targets
        ]
        self.done = False

    def prepare_base(self) -> None:
        """Restore all base parameters that are swapped in, and keep quantized ones in a form that can be read."""
        for layer in layers_of(self.model):
            layer.restore()
        for module in self.model.modules():
            keep_readable(module)

    def check_base(self) -> None:
        """Warn if the base is not the one that a checkpoint was saved with.

        Raises:
            ValueError: the config says `strict`, and they differ or cannot be compared.
        """
        saved = self.config.expected_fingerprint()
        if saved is None:
            if self.config.strict and self.config.checkpointed()[0] is not None:
                raise ValueError(
                    f"strict=True: adapter {self.adapter_name!r} was saved without a fingerprint of its base model, so "
                    "whether this is the one cannot be told; load it without strict, and save it again."
                )
            return
        pairs = zip(self.targets, self.tuned, strict=True)
        tensors = {target.name: (parameter, target.tensor) for target, parameter in pairs}
        present = fingerprints(tensors, anew=self.config.strict)
        found = differences(saved, present)
        unknown = sorted(tensors.keys() - (saved.keys() & present.keys()))
        remedy = f"Load it onto the base it was made for ({self.config.base_model_name_or_path or 'it has no name'})"
        if self.config.strict and (found or unknown):
            raise ValueError(
                f"strict=True: the base model is not the one that adapter {self.adapter_name!r} was saved with, or "
                f"cannot be told to be. {described(found, len(tensors))}"
                + (f"; {len(unknown)} cannot be compared: {listed(unknown)}" if unknown else "")
                + f". {remedy}, in the same dtype, or without strict."
            )
        harmful = [difference for difference in found if not difference.harmless]
        storage = self.config.checkpointed_storage()
        of_weights = [each for each in harmful if storage.get(each.name, (0, "float32"))[1] != "float32"]
        if of_weights:
            raise ValueError(
                f"adapter {self.adapter_name!r} was saved with compact=True, as effective weights of its base model, "
                f"and this is another one: {described(of_weights, len(tensors))}. {remedy}; saved from there with "
                "compact=False, it loads onto this one."
            )
        if harmful:
            warnings.warn(
                f"the base model is not the one that adapter {self.adapter_name!r} was saved with: "
                f"{described(harmful, len(tensors))}. Its deltas add to other weights than those it was trained on. "
                f"{remedy}.",
                UserWarning,
                stacklevel=2,
            )

    def put_in_once(self) -> None:
        """Wrap all modules that use a target, and give the adapter its first mask and its trainable vector."""
        if self.done:
            return
        self.done = True
        # both may fail, so they come before any change
        positions = first_positions(self.config, self.targets)
        unit = auto_unit(self.model)
        scales = [delta_scale(self.config, target, unit) for target in self.targets]
        state = AdapterState(self.adapter_name, self.config)
        state.take_out = self.restore
        state.start_afresh = start_afresh
        modules = {name: self.model.get_submodule(name) for name in self.found}
        layers = wrapped(self.model, modules)
        owned: dict[str, dict[str, SparseDelta]] = {name: {} for name in modules}
        for target, tuned, scale in zip(self.targets, self.tuned, scales, strict=True):
            delta = SparseDelta(target.name, target.shape, scale, state)
            state.deltas.append(delta)
            owned[target.uses[0].module][target.uses[0].parameter] = delta
            for use in target.uses:
                layers[use.module].tuned[use.parameter] = tuned
                layers[use.module].share(use.parameter, target.tensor, keep_own=True)
        for name, layer in layers.items():
            layer.update_layer(state, owned[name])
        watch_loads(self.model)
        carrier = next(part for part in self.model.modules() if isinstance(part, Values) and part.state is state)
        bases, active = [target.values for target in self.targets], [active for active, _ in positions]
        state.allocate(positions, carrier, first_values(state, bases, active))
        for tuned, delta in zip(self.tuned, state.deltas, strict=True):
            tuned.deltas[self.adapter_name] = delta
        AutoUpdate(self.model, state)
        watch(self.model, state, layers[self.targets[0].uses[0].module])


def layer_for(model: nn.Module, module: nn.Module) -> FishDipLayer:
    """The layer that wraps a module: the module itself if it is one already."""
    if isinstance(module, FishDipLayer):
        return module
    backend = backend_of(model, module, "weight")
    if backend is not None:
        return FishDipQuantizedLinear(module, backend)
    if isinstance(module, (nn.Linear, Conv1D)):
        return FishDipLinear(module)
    if isinstance(module, nn.Embedding):
        return FishDipEmbedding(module)
    return FishDipNorm(module) if is_norm(module) else FishDipLayer(module)


def wrapped(model: nn.Module, modules: dict[str, nn.Module]) -> dict[str, FishDipLayer]:
    """A layer for each of the modules, put in their place wherever they stand."""
    layers = {id(module): layer_for(model, module) for module in modules.values()}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) not in layers:
            continue
        path, _, leaf = name.rpartition(".")
        parent = model.get_submodule(path)
        if isinstance(parent, FishDipLayer):
            if leaf == "base_layer":
                continue  # it has its layer
            parent = parent.base_layer
        setattr(parent, leaf, layers[id(module)])
        if isinstance(parent, nn.TransformerEncoderLayer):
            layers[id(module)].register_forward_pre_hook(no_fast_path)
    for some, index in in_lists(model):
        some[index] = layers.get(id(some[index]), some[index])
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoder) and any(isinstance(m, FishDipLayer) for m in encoder.modules()):
            encoder.__dict__.setdefault(NESTED, encoder.use_nested_tensor)
            encoder.use_nested_tensor = False  # only the fast path can work with nested tensors
    with suppress(NotImplementedError):  # of a transformers model that has none
        head = getattr(model, "get_output_embeddings", lambda: None)()
        if isinstance(head, FishDipLayer):
            head.is_output = True
    put_guards(model)
    return {name: layers[id(module)] for name, module in modules.items()}


def in_lists(model: nn.Module) -> Iterator[tuple[list[Any], int]]:
    """The places of modules in plain lists, through which some models call their children."""
    for module in model.modules():
        for value in list(module.__dict__.values()):
            if isinstance(value, list):
                yield from ((value, index) for index, entry in enumerate(value) if isinstance(entry, nn.Module))


def no_fast_path(module: nn.Module, inputs: object) -> None:
    """A hook that does nothing: with one, nn.TransformerEncoderLayer calls its layers, whose weights it would read."""


def unwrap(model: nn.Module, empty_only: bool = False) -> None:
    """Put the wrapped modules back in their places; with `empty_only`, only those whose layer has no adapter."""
    places = [(some, index) for some, index in in_lists(model) if isinstance(some[index], FishDipLayer)]
    for name, layer in reversed(list(model.named_modules(remove_duplicate=False))):
        if isinstance(layer, FishDipLayer) and not (empty_only and len(layer.fishdip_values)):
            layer.close()
            layer.give_back()
            model.set_submodule(name, layer.base_layer)
            for some, index in places:
                if some[index] is layer:
                    some[index] = layer.base_layer
    if any(True for _ in layers_of(model)):
        return
    for encoder in model.modules():
        if NESTED in encoder.__dict__:
            encoder.use_nested_tensor = encoder.__dict__.pop(NESTED)
    remove_guards(model)
    remove_generate(model)
    unwatch_loads(model)


def discard(model: nn.Module, adapter_name: str) -> None:
    """Take an adapter and its config out of the model; with the last adapter, the layers too."""
    left = take_out(model, adapter_name)
    for module in [model, *model.modules()]:
        configs = module.__dict__.get("peft_config")
        if isinstance(configs, dict):
            configs.pop(adapter_name, None)
            if not configs and not left:
                del module.__dict__["peft_config"]
    unmark(model)


def unmark(model: nn.Module) -> None:
    """Take back transformers' mark of a model with adapters, which it sets before it adds one, if there is none."""
    for module in [model, *model.modules()]:
        if "peft_config" not in module.__dict__ and "_hf_peft_config_loaded" in module.__dict__:
            module.__dict__["_hf_peft_config_loaded"] = False


@contextmanager
def as_before_on_failure(model: nn.Module, adapter_name: str, is_new: bool) -> Iterator[None]:
    """After an error or interrupt within, the model has no adapter of that name, if it is a new one."""
    configs = model.__dict__.get("peft_config")
    before = dict(configs) if isinstance(configs, dict) else {}
    restore = taking_out(model, adapter_name) if is_new else None
    try:
        yield
    except BaseException:
        if restore is not None:
            repeat_once(restore)
            if before:
                configs.update(before)  # type: ignore[union-attr]
                model.__dict__["peft_config"] = configs
        raise


def taking_out(model: nn.Module, adapter_name: str) -> Callable[[], None]:
    """A function that takes an adapter out that is about to be added, and makes the model what it is now."""
    reference = ref(model)  # weak, because the adapter's state keeps the function
    children = [(ref(part), {n: ref(child) for n, child in children_of(part)}) for part in model.modules()]
    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    active = [(ref(part), part._active_adapter) for part in model.modules() if isinstance(part, kinds)]
    # by name: torch cannot move quantized tensors while there are weak references to them
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}

    def restore() -> None:
        now = reference()
        if now is None:
            return
        discard(now, adapter_name)
        for part_reference, before in children:
            part = part_reference()
            if part is not None:
                restore_children(part, {name: child() for name, child in before.items()})
        for name, parameter in now.named_parameters():
            parameter.requires_grad_(flags.get(name, parameter.requires_grad))
        for layer_reference, names in active:
            layer: Any = layer_reference()
            if layer is not None:
                layer._active_adapter = names

    return restore


def children_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in own_submodules(module).items() if child is not None]


def restore_children(module: nn.Module, before: Mapping[str, nn.Module | None]) -> None:
    """Take out children that were not there before, such as copies that PEFT trains, and put back those that were."""
    for name, child in children_of(module):
        if name not in before:
            delattr(module, name)
        elif before[name] is not None and child is not before[name]:
            module.add_module(name, before[name])


def take_out(model: nn.Module, adapter_name: str) -> bool:
    """Take an adapter out of the model, and layers that have no adapter left; tells whether there is another one."""
    for layer in layers_of(model):
        layer.close([adapter_name])
        for container in (layer.fishdip_values, layer.fishdip_indices, layer.fishdip_summary):
            if adapter_name in container:
                del container[adapter_name]
        for parameter in layer.tuned.values():
            parameter.deltas.pop(adapter_name, None)
    unwrap(model, empty_only=True)
    return any(True for _ in layers_of(model))
