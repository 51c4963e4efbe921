"""Puts an adapter into a model, and takes adapters out again."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .adapter_io import Values
from .combination import listed
from .config import FishDipConfig
from .fingerprint import described, differences, fingerprint
from .generation import remove_generate
from .guards import put_guards, remove_guards
from .layer import FishDipEmbedding, FishDipLayer, FishDipLinear, layers_of
from .norm_layer import FishDipNorm, is_norm
from .parameter import TunedParameter
from .quantized import backend_of, keep_readable
from .quantized_layer import FishDipQuantizedLinear
from .selection import distinct_integers, num_active, random_positions, top_k
from .state import AdapterState, SparseDelta
from .targets import Target

MIN_RMS = 1e-3
"""Scale of a tensor that starts at zero, as a bias does; Adafactor's epsilon_2."""

NESTED = "_use_nested_tensor_without_fishdip"


class Injection:
    """One adapter on its way into a model."""

    def __init__(
        self,
        model: nn.Module,
        adapter_name: str,
        config: FishDipConfig,
        targets: list[Target],
        excluded: set[str],
    ) -> None:
        self.model = model
        self.adapter_name = adapter_name
        self.config = config
        self.targets = targets
        self.excluded = excluded
        self.found = {use.module for target in targets for use in target.uses}
        self.tuned = {
            id(layer.base_parameter(name)): parameter
            for layer in layers_of(model)
            for name, parameter in layer.tuned.items()
        }
        for layer in layers_of(model):
            layer.take_back()
        for target in targets:
            self.tuned.setdefault(id(target.tensor), TunedParameter(target.name, target.shape))
        self.done = False
        for module in model.modules():
            keep_readable(module)

    def check_base(self) -> None:
        """Compare the base with the one that a checkpoint was saved with, if any.

        Raises:
            ValueError: they differ, or cannot be compared, and the config says `strict`. Else it warns.
        """
        saved = self.config.expected_fingerprint()
        if saved is None:
            if self.config.strict and self.config.checkpointed()[0] is not None:
                raise ValueError(
                    f"strict=True: adapter {self.adapter_name!r} was saved without a fingerprint of its base model, so "
                    "whether this is the one cannot be told; load it without strict, and save it again."
                )
            return
        tensors = {target.name: (self.tuned[id(target.tensor)], target.tensor) for target in self.targets}
        present = fingerprint(tensors)
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
        # what can fail comes first, while the model is as it was
        positions = first_positions(self.config, self.targets)
        scales = [delta_scale(self.config, target) for target in self.targets]
        state = AdapterState(self.adapter_name, self.config)
        modules = {name: self.model.get_submodule(name) for name in self.found}
        layers = wrapped(self.model, modules)
        owned: dict[str, dict[str, SparseDelta]] = {name: {} for name in modules}
        for target, scale in zip(self.targets, scales, strict=True):
            tuned = self.tuned[id(target.tensor)]
            delta = SparseDelta(target.name, target.shape, scale, state)
            tuned.deltas[self.adapter_name] = delta
            state.deltas.append(delta)
            owned[target.uses[0].module][target.uses[0].parameter] = delta
            for use in target.uses:
                layers[use.module].tuned[use.parameter] = tuned
        for name, layer in layers.items():
            layer.update_layer(state, owned[name])
        carrier = next(
            module for module in self.model.modules() if isinstance(module, Values) and module.state is state
        )
        state.allocate(positions, carrier, first_values(state, self.targets, positions))


def layer_for(model: nn.Module, module: nn.Module) -> FishDipLayer:
    """What wraps a module, if it isn't a wrapper already."""
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
    for parent in list(model.modules()):
        if isinstance(parent, FishDipLayer):
            continue  # what it wraps stays where it is
        for leaf, child in parent._modules.items():
            if id(child) in layers:
                parent._modules[leaf] = layers[id(child)]
                if isinstance(parent, nn.TransformerEncoderLayer):
                    layers[id(child)].register_forward_pre_hook(no_fast_path)
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoder) and any(isinstance(m, FishDipLayer) for m in encoder.modules()):
            encoder.__dict__.setdefault(NESTED, encoder.use_nested_tensor)
            encoder.use_nested_tensor = False  # only the fast path can work with nested tensors
    put_guards(model)
    return {name: layers[id(module)] for name, module in modules.items()}


def no_fast_path(module: nn.Module, inputs: object) -> None:
    """As a hook, it keeps nn.TransformerEncoderLayer from reading base weights past the layers in inference."""


def unwrap(model: nn.Module) -> None:
    """Put the wrapped modules back."""
    for parent in list(model.modules()):
        if NESTED in parent.__dict__:
            parent.use_nested_tensor = parent.__dict__.pop(NESTED)
        for leaf, child in parent._modules.items():
            if isinstance(child, FishDipLayer):
                parent._modules[leaf] = child.base_layer
    remove_guards(model)
    remove_generate(model)


def discard(model: nn.Module, adapter_name: str) -> None:
    """Take an adapter out that could not be loaded, and its config; with the last adapter the layers too."""
    left = take_out(model, adapter_name)
    for module in [model, *model.modules()]:
        configs = module.__dict__.get("peft_config")
        if isinstance(configs, dict):
            configs.pop(adapter_name, None)
            if not configs and not left:
                del module.__dict__["peft_config"]


def take_out(model: nn.Module, adapter_name: str) -> bool:
    """Take an adapter out of all layers, and with the last one the layers too; tells whether there is another."""
    layers = list(layers_of(model))
    for layer in layers:
        for container in (layer.fishdip_values, layer.fishdip_indices, layer.fishdip_summary):
            if adapter_name in container:
                del container[adapter_name]
        for parameter in layer.tuned.values():
            parameter.deltas.pop(adapter_name, None)
    left = any(len(layer.fishdip_values) for layer in layers)
    if not left:
        unwrap(model)
    return left


def delta_scale(config: FishDipConfig, target: Target) -> float:
    """What trainable values are multiplied with to give deltas: 1, or the RMS of the base tensor as a power of two.

    Raises:
        ValueError: the tensor has no finite RMS.
    """
    if config.delta_scale == "none":
        return 1.0
    size = rms(target.values())
    if not math.isfinite(size):
        raise ValueError(
            f"delta_scale={config.delta_scale!r}: the RMS of {target.name!r} is {size}; use delta_scale='none', or "
            "leave its module out with exclude_modules."
        )
    return 2.0 ** round(math.log2(size))


@torch.no_grad()
def rms(tensor: Tensor) -> float:
    """Root of the mean square, at least MIN_RMS."""
    return MIN_RMS if tensor.is_meta else max(MIN_RMS, float(tensor.float().square().mean().sqrt()))


def check_counts(config: FishDipConfig, targets: Sequence[Target]) -> None:
    """Make sure that K > 0 and that the counts of a checkpoint, if any, fit the model.

    Raises:
        ValueError: they don't; the message names the parameter.
    """
    k = num_active(config.density, sum(target.numel for target in targets))
    counts, _ = config.checkpointed()
    if counts is None:
        return
    names = {target.name: target.numel for target in targets}
    strangers = sorted(names.keys() ^ counts.keys())
    if strangers:
        where = "model" if strangers[0] in names else "adapter"
        raise ValueError(
            f"the adapter was made for another model: only the {where} has {strangers[0]!r} ({len(strangers)} "
            "parameters differ). Load it onto the model that its config names as base_model_name_or_path."
        )
    for name, (active, frozen) in counts.items():
        if active + frozen > names[name]:
            raise ValueError(
                f"the adapter was made for another model, or its config is damaged: {active} active and {frozen} "
                f"frozen entries of {name!r}, which has {names[name]}."
            )
    if sum(active for active, _ in counts.values()) != k:
        raise ValueError(
            f"the adapter's config is damaged or was made for another model: its counts add up to "
            f"{sum(active for active, _ in counts.values())} active entries, density={config.density} makes {k}."
        )


def first_positions(config: FishDipConfig, targets: Sequence[Target]) -> list[tuple[Tensor, Tensor]]:
    """Active and frozen positions per target before any example has been seen.

    With the counts of a checkpoint they only take the place of what is about to be loaded.
    """
    generator = torch.Generator().manual_seed(config.seed)
    sizes = {target.name: target.numel for target in targets}
    k = num_active(config.density, sum(sizes.values()))
    none = torch.empty(0, dtype=torch.int64)
    counts, _ = config.checkpointed()
    if counts is not None:
        result = []
        for name, size in sizes.items():
            active, frozen = counts[name]
            both = distinct_integers(size, active + frozen, generator)
            result.append((both[:active], both[active:]))
    elif config.init_mask == "magnitude":
        with torch.no_grad():
            chosen = top_k({target.name: target.values().abs() for target in targets}, k).positions
        result = [(chosen[target.name], none) for target in targets]
    else:
        chosen = random_positions(sizes, k, generator)
        result = [(chosen[target.name], none) for target in targets]
    devices = [torch.device("cpu") if target.tensor.is_meta else target.device for target in targets]
    return [(active.to(device), frozen.to(device)) for (active, frozen), device in zip(result, devices, strict=True)]


def first_values(state: AdapterState, targets: Sequence[Target], positions: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The trainable vector: zeros, or with `init_weights=False` random deltas on the scale of each base tensor."""
    device = positions[0][0].device
    if state.config.init_weights:
        return torch.zeros(sum(active.numel() for active, _ in positions), device=device)
    # two adapters with one config must differ
    generator = torch.Generator().manual_seed(state.config.seed + zlib.crc32(state.adapter_name.encode()))
    parts = [
        torch.randn(active.numel(), generator=generator) * max(rms(target.values()), 0.02) / delta.scale
        for target, delta, (active, _) in zip(targets, state.deltas, positions, strict=True)
    ]
    return torch.cat(parts).to(device)
