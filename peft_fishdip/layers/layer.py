"""Modules that add sparse deltas to the parameters of the module they wrap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter.atomic import repeat_once
from ..adapter.base_parameter import TemporaryMerge, TunedParameter, active_views
from ..adapter.containers import Indices, Summary, Values
from ..adapter.memory import Replaced
from ..adapter.recording import is_recorded, refuse_symbolic
from ..adapter.state import AdapterState, SparseDelta
from ..private import has_own, is_replica, own_parameter, own_submodule, own_submodules
from ..quantization import has_quantized_storage
from ..stand_in import owner, standing_in
from .current_weights import CurrentWeight, CurrentWeights, NotCopied
from .functional import effective_weight
from .locks import all_of
from .own_reads import read_through, unread
from .recompute import rebuilt_for_backward
from .stale import Snapshot
from .widths import widths


class FishDipLayer(nn.Module, CurrentWeights):
    """Wraps any module that owns parameters.

    During a call, effective tensors stand in the module's `__dict__`, where attribute access finds them before its
    parameters. Unlike torch.func.functional_call this also works below FSDP, gradient checkpointing and torch.compile.

    Attributes:
        base_layer: the wrapped module.
        tuned: per name within `base_layer` ("weight", "out_proj.bias") the parameter, which all modules that are tied
            to it share.
        replaced: per name a Parameter in whose place stands that of another use of the same memory.
        without_gradients: what readers of a parameter were given last, while no gradients were wanted.
    """

    adapter_layer_names = ("fishdip_values", "fishdip_indices", "fishdip_summary")
    kept_out_of_merging: frozenset[str] = frozenset()
    """Parameters that never get effective values during a call, because a subclass adds their deltas to the output."""
    has_own_reads = True
    """Whether wrapped modules of classes outside of torch may read their parameters at other times than in a call."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.tuned: dict[str, TunedParameter] = {}
        self.replaced: dict[str, Replaced] = {}
        self.without_gradients = NotCopied()
        self.fishdip_summary = nn.ModuleDict()  # first: a state dict brings it before the last positions and values
        self.fishdip_values = nn.ModuleDict()
        self.fishdip_indices = nn.ModuleDict()
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.in_features, self.out_features = widths(base_layer)

    def __getattr__(self, name: str) -> Any:
        """Attributes of the wrapped module (`num_embeddings`, `eps`, children) can be read here."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            if name in self.__dict__.get("tuned", ()):
                return self.current(name)
            return getattr(super().__getattr__("base_layer"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set attributes of the wrapped module there; a ValueError if a parameter is replaced, and not tied anew."""
        base = own_submodules(self).get("base_layer")
        owned = None if base is None else own_parameter(base, name)
        if isinstance(value, nn.Parameter) and owned is not None:
            tuned = self.__dict__.get("tuned", {}).get(name)
            if value is not owned and not (isinstance(value, CurrentWeight) and value.tuned() is tuned):
                raise ValueError(
                    f"the {name} of a {type(base).__name__} that a Fish-Dip adapter tunes cannot be replaced, as by "
                    "tying or resizing: the adapter's positions belong to this one. Change the base model before, or "
                    "after merge_and_unload() or unload()."
                )
            return
        if base is not None and has_own(base, name) and not (has_own(self, name) or hasattr(type(self), name)):
            setattr(base, name, value)
        else:
            super().__setattr__(name, value)

    def update_layer(self, state: AdapterState, owned: Mapping[str, SparseDelta]) -> None:
        """Add containers for an adapter. Of tied layers one alone owns a delta, which it saves and loads."""
        name = state.adapter_name
        self.fishdip_values[name] = values = Values(state, owned)
        self.fishdip_indices[name] = Indices(state, owned)
        self.fishdip_summary[name] = Summary(values)
        for leaf, delta in owned.items():
            delta.belongs_to(self, leaf)
        names = tuple(sorted(leaf for leaf in self.tuned if "." not in leaf))
        if self.has_own_reads and names and not type(self.base_layer).__module__.startswith("torch.nn."):
            read_through(self.base_layer, self, names)

    def share(self, name: str, parameter: nn.Parameter, keep_own: bool = False) -> None:
        """Let the wrapped module use this very Parameter in place of its own, to give that back with `keep_own`."""
        module, leaf = owner(self.base_layer, name)
        own = own_parameter(module, leaf)
        if own is parameter:
            return
        if keep_own:
            self.replaced[name] = Replaced(own)
        setattr(module, leaf, parameter)

    def give_back(self) -> None:
        """Give the wrapped module its own Parameters, and its own class, again."""
        unread(self.base_layer)
        for name, replaced in list(self.replaced.items()):
            module, leaf = owner(self.base_layer, name)
            setattr(module, leaf, replaced.given_back(own_parameter(module, leaf)))
            self.replaced.pop(name, None)

    # a tied parameter is merged once for all layers that use it, so there is no list per layer as PEFT has it
    @property
    def merged_adapters(self) -> list[str]:  # type: ignore[override]
        return list(dict.fromkeys(name for parameter in self.tuned.values() for name in parameter.merged_adapters))

    def base_parameter(self, name: str) -> Tensor:
        """The base tensor of that name, even while an effective one stands in its place.

        Raises:
            ValueError: the wrapped module has no such parameter any more, as in replicas of torch.nn.DataParallel.
        """
        module, leaf = owner(self.base_layer, name)
        parameter: Tensor | None = own_parameter(module, leaf)
        if parameter is None:
            raise ValueError(why_without(module, self.tuned[name].name))
        return parameter

    def base_values(self, name: str) -> Tensor:
        """The base values of that name, in the parameter's shape: the tensor itself if nothing is merged into it."""
        return self.tuned[name].unmerged(self.base_parameter(name))

    def plain_base_values(self, name: str) -> Tensor | None:
        """See `base_values`; None if this process does not have them whole, as plain floating-point numbers."""
        weight = self.base_parameter(name)
        if has_quantized_storage(weight) or weight.is_meta or weight.shape != self.tuned[name].shape:
            return None
        return self.base_values(name)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write the deltas of these adapters (default: the active ones) into the base parameters.

        Raises:
            ValueError: with `safe_merge`, an effective value is not finite; nothing has been changed then.
        """
        adapters = self.active_adapters if adapter_names is None else adapter_names
        if safe_merge:
            self.check_finite([*self.merged_adapters, *adapters])
        with self.locked(), merged_as_before_on_failure([self]):
            for name in self.tuned:
                self.merge_parameter(name, adapters)

    def refuse_merge(self) -> None:
        """Raise ValueError if the base parameters cannot take deltas."""

    def merge_parameter(self, name: str, adapters: Sequence[str]) -> None:
        self.tuned[name].merge(self.base_parameter(name), adapters)

    def unmerge_parameter(self, name: str) -> None:
        self.tuned[name].unmerge(self.base_parameter(name))

    def merge_active(self) -> None:
        """Merge the active adapters, except into parameters that are kept out of merging."""
        for name in self.tuned.keys() - self.kept_out_of_merging:
            self.merge_parameter(name, self.active_adapters)

    def merge_temporarily(self, temporary_merge: TemporaryMerge, stack: ExitStack) -> None:
        """Leave effective values in the base parameters for many calls without gradients, until the stack is left."""
        if self.disable_adapters or self.kept_out_of_merging:
            return
        for name, parameter in self.tuned.items():
            weight = self.base_parameter(name)
            stack.callback(parameter.end_temporary_merge, weight, temporary_merge)  # before: what comes next may fail
            parameter.merge_temporarily(weight, self.active_adapters, temporary_merge)

    def restore(self) -> None:
        """Restore base parameters that are swapped in or temporarily merged."""
        for name, parameter in self.tuned.items():
            if parameter.swapped_in:
                self.unmerge_parameter(name)

    def check_finite(self, adapters: Sequence[str]) -> None:
        for name, parameter in self.tuned.items():
            deltas = parameter.of(adapters)
            if not deltas:
                continue
            positions, _, values = parameter.entries(self.base_values(name), deltas, active_views(deltas))
            if not values.isfinite().all():
                bad = int(positions[~values.isfinite()][0])
                raise ValueError(
                    f"NaNs detected in the merged weights. The adapter {', '.join(adapters)} seems to be broken: "
                    f"{parameter.name!r} would not be finite at flat position {bad}."
                )

    def unmerge(self) -> None:
        """Restore the base parameters bitwise. If it is interrupted, all are restored before the interrupt goes on."""
        with self.locked():
            repeat_once(self.unmerge_parameters)

    def unmerge_parameters(self) -> None:
        for name in self.tuned:
            self.unmerge_parameter(name)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Activate adapters, which alone are trained, unless in `inference_mode`; see BaseTunerLayer."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for name, values in self.fishdip_values.items():
            flat = own_parameter(values, "flat")
            if flat is not None:
                flat.requires_grad_(name in names and not inference_mode)
        self.activate(names)

    def activate(self, adapter_names: list[str]) -> None:
        """Activate adapters, whatever is trained."""
        self.restore()
        self._active_adapter = adapter_names

    def enable_adapters(self, enabled: bool) -> None:
        super().enable_adapters(enabled)
        if not enabled:
            self.unmerge()  # at once: a layer that is only tied to another may never be called

    def delete_adapter(self, adapter_name: str) -> None:
        self.close([adapter_name])
        super().delete_adapter(adapter_name)
        for parameter in self.tuned.values():
            parameter.deltas.pop(adapter_name, None)

    def close(self, adapter_names: Sequence[str] | None = None) -> None:
        """Release what adapters, all by default, that leave the model have there."""
        for name, values in self.fishdip_values.items():
            if adapter_names is None or name in adapter_names:
                values.state.close()  # type: ignore[operator, union-attr]

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: Any = None) -> None:
        """Move the adapter to a device; its values stay float32, whatever dtype the base has."""
        if device is None:
            device = next(self.base_layer.parameters()).device
        for container in (self.fishdip_values, self.fishdip_indices):
            if adapter_name in container and not any(p.is_meta for p in container[adapter_name].parameters()):
                container[adapter_name].to(device)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # the usual case first and without further calls: per token, Python takes longer than small products
        if len(self.tuned) == 1 and not torch.compiler.is_compiling():
            (parameter,) = self.tuned.values()
            with parameter.lock:
                if (parameter.merged_adapters and not self._disable_adapters) or self.base_is_current():
                    return own_submodule(self, "base_layer")(*args, **kwargs)
        else:
            with self.locked():
                if self.base_is_current():
                    return self.base_layer(*args, **kwargs)
        refuse_symbolic(*args)
        return self.tuned_forward(*args, **kwargs)

    def base_is_current(self) -> bool:
        """Whether the base layer has the values that this call needs; others that are swapped in are restored first."""
        parameters = self.tuned.values()
        if self._disable_adapters:
            if any(parameter.merged_adapters or parameter.swapped_in for parameter in parameters):
                self.unmerge()
            return True
        if any(parameter.merged_adapters for parameter in parameters):
            return True
        if torch.compiler.is_compiling():
            return False
        ready = not torch.is_grad_enabled()
        for name, parameter in self.tuned.items():
            deltas = self.deltas(name)
            if not parameter.has_effective(deltas):
                if parameter.swapped_in:
                    self.unmerge_parameter(name)
                ready = ready and not deltas
        return ready

    @property
    def wants_whole_gradients(self) -> bool:
        """Whether backward passes shall find the gradient of all entries, not just of the active ones."""
        return any(parameter.gradient is not None for parameter in self.tuned.values())

    def locked(self) -> AbstractContextManager[Any]:
        """Within, no other thread uses the parameters of this layer."""
        if torch.compiler.is_compiling():
            return nullcontext()
        locks = [parameter.lock for parameter in self.tuned.values()]
        return locks[0] if len(locks) == 1 else all_of(locks)

    def deltas(self, name: str) -> tuple[SparseDelta, ...]:
        """The deltas of the active adapters to the parameter `name` of this layer; none if it isn't tuned."""
        return self.tuned[name].of(self.active_adapters) if name in self.tuned else ()

    def effective(self, name: str) -> Tensor | None:
        """The tensor of effective values, or the base one where no active adapter has a delta."""
        if name not in self.tuned:
            return getattr(self.base_layer, name, None)
        deltas = self.deltas(name)
        weight = self.base_parameter(name)
        return effective_weight(weight, self.tuned[name], deltas) if deltas else weight

    def tuned_forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped module with effective tensors in place of its parameters."""
        if self.training and getattr(self.base_layer, "gradient_checkpointing", False):
            with self.locked():
                return self.base_layer(*args, **kwargs)  # it reads them at its recomputation, too
        with self.locked(), ExitStack() as stack:  # two threads must not put their tensors in the same place
            rebuild: dict[tuple[int, torch.dtype], Callable[[], Tensor]] = {}
            for name, parameter in self.tuned.items():
                deltas = () if name in self.kept_out_of_merging else self.deltas(name)
                if not deltas:
                    continue
                weight = self.base_parameter(name)
                tensor = effective_weight(weight, parameter, deltas)
                stack.enter_context(standing_in(self.base_layer, name, tensor))
                # vectors (norms, biases) are kept for backward: they are smaller than the activations of a few tokens
                if weight.dim() > 1 and not torch.compiler.is_compiling() and not is_recorded():
                    make = partial(Snapshot(parameter, deltas, active_views(deltas)).effective, weight.detach())
                    rebuild[tensor.untyped_storage().data_ptr(), tensor.dtype] = make
            if rebuild:
                stack.enter_context(rebuilt_for_backward(rebuild))
            return self.base_layer(*args, **kwargs)

    def __repr__(self) -> str:
        return "fishdip." + super().__repr__()


def why_without(module: nn.Module, name: str) -> str:
    """The message for a tuned parameter that its module has lost."""
    if is_replica(module):
        return (
            f"torch.nn.DataParallel cannot call a model with a Fish-Dip adapter: its replicas have no {name!r} of "
            "their own. A Trainer uses it by itself where it sees several GPUs: start a process for each, torchrun "
            "--nproc_per_node 2 train.py or accelerate launch train.py, or let it see one, CUDA_VISIBLE_DEVICES=0. "
            "For evaluation, call merge_adapter() or merge_and_unload() first."
        )
    return (
        f"{name!r}, which a Fish-Dip adapter tunes, is no parameter of its {type(module).__name__} any more, as after "
        "pruning or parametrizing it: do that before the adapter is added, or after merge_and_unload()."
    )


def unmerge_all(layers: Iterable[FishDipLayer]) -> None:
    for layer in layers:
        layer.unmerge()


@contextmanager
def merged_as_before_on_failure(layers: Sequence[FishDipLayer]) -> Iterator[None]:
    """On an error or interrupt within, the layers' parameters are merged with what they were merged with before."""
    before = [(layer, name, tuned.merged_adapters) for layer in layers for name, tuned in layer.tuned.items()]

    def merge_as_before() -> None:
        for layer, name, adapters in before:
            if layer.tuned[name].merged_adapters != adapters or layer.tuned[name].swapped_in:
                layer.unmerge_parameter(name)
                layer.merge_parameter(name, adapters)

    try:
        yield
    except BaseException:
        repeat_once(merge_as_before)
        raise


def layers_of(model: nn.Module) -> Iterator[FishDipLayer]:
    """The layers in a model, once each, in the order of `modules()`; their containers are not searched."""
    seen: set[int] = set()
    left: list[nn.Module] = [model]
    while left:
        module = left.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        if isinstance(module, FishDipLayer):
            yield module
            left.append(module.base_layer)
        else:
            left.extend(reversed(list(module.children())))


def tuned_parameters(model: nn.Module, adapter_name: str) -> dict[str, tuple[TunedParameter, Tensor]]:
    """By name, the parameters that an adapter of `model` tunes, each with its base tensor."""
    found: dict[str, tuple[TunedParameter, Tensor]] = {}
    for layer in layers_of(model):
        for name, parameter in layer.tuned.items():
            if adapter_name in parameter.deltas:
                found.setdefault(parameter.name, (parameter, layer.base_parameter(name)))
    return found
