"""Parameters that other modules read from a tuned one, past its forward.

Mamba's mixer reads the weights of its convolution and projections, DeBERTa's encoder reads a table of embeddings, and
losses read the weight of a model's head. They find the values that a call would compute with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from ..adapter.base_parameter import TunedParameter, active_views
from ..adapter.recording import is_recorded
from ..private import as_plain_tensors
from .functional import Deltas, SparseDeltaEmbedding, gradients_of_entries
from .once import differentiable_once
from .stale import Snapshot


class CurrentWeights(BaseTunerLayer):
    """The part of a layer that gives its parameters to whoever reads them instead of calling it."""

    is_output = False
    """Whether it wraps the output embeddings of a model."""

    @property
    def weight(self) -> Any:
        """The weight that a call would compute with now, with its gradients."""
        return self.current("weight")

    @property
    def bias(self) -> Any:
        """The bias that a call would compute with now, with its gradients."""
        return self.current("bias")

    def current(self: Any, name: str) -> Any:
        """What stands under a name in the wrapped module, with the values that a call would compute with now.

        The base parameter itself if it has these. Otherwise a tensor that is computed when it is used, since many
        models read no more of a weight than its dtype.
        """
        tuned = self.tuned.get(name)
        if tuned is None or name in self.kept_out_of_merging:
            return getattr(self.base_layer, name)
        if self._disable_adapters or tuned.merged_adapters:
            with self.locked():
                return self.base_parameter(name) if self.base_is_current() else self.effective(name)
        if self.is_output or torch.compiler.is_compiling() or is_recorded():
            return self.effective(name)
        if torch.is_grad_enabled():
            return CurrentWeight.with_gradients(self, name)
        found = self.without_gradients.get(name)
        if found is None or found.of_base is not self.base_parameter(name):
            found = self.without_gradients[name] = CurrentWeight.of(self, name)
        return found


class NotCopied(dict[str, Any]):
    """A dict that is empty in copies and pickles of what it belongs to."""

    def __deepcopy__(self, memo: Any) -> NotCopied:
        return NotCopied()

    def __reduce__(self) -> Any:
        return NotCopied, ()


class CurrentWeight(torch.Tensor):
    """The effective values of a parameter, which are computed by every operation that uses them.

    It has the dtype, shape and device of the base parameter, and memory only if somebody asks for its address, as
    kernels of Triton do; a C++ operator that torch does not dispatch gets an error and no base values. Gradients flow
    through it to the deltas, also where a custom autograd function takes it.
    """

    of_layer: Any
    of_name: str
    of_base: Tensor
    of_data = False  # no gradients flow through it
    in_memory: Tensor

    @staticmethod
    def of(layer: Any, name: str) -> CurrentWeight:
        """For the parameter of that name in the module that a layer wraps."""
        return without_memory(layer.base_parameter(name)).belonging_to(layer, name)

    @staticmethod
    def with_gradients(layer: Any, name: str) -> CurrentWeight:
        """The same, with a place in the graph of autograd if a delta is trained."""
        weight, deltas = layer.base_parameter(name), layer.deltas(name)
        views = active_views(deltas)
        if not any(view.requires_grad for view in views):
            return CurrentWeight.of(layer, name)
        read: CurrentWeight = Reading.apply(weight, layer.tuned[name], deltas, *views)
        found = read.belonging_to(layer, name)
        if layer.tuned[name].gradient is not None:
            found.register_hook(layer.tuned[name].add_gradient)
        return found

    def belonging_to(self, layer: Any, name: str) -> CurrentWeight:
        self.of_layer, self.of_name, self.of_base = layer, name, layer.base_parameter(name)
        self._is_param = True  # isinstance(..., nn.Parameter), as tying weights demands
        return self

    def __getattr__(self, name: str) -> Any:
        """Attributes that were set on the base parameter can be read here."""
        if name.startswith("of_"):
            raise AttributeError(name)
        return getattr(self.of_base, name)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.values().detach().clone()

    def tuned(self) -> TunedParameter:
        """The parameter whose values these are."""
        found: TunedParameter = self.of_layer.tuned[self.of_name]
        return found

    def values(self) -> Tensor:
        """The effective values, with their gradients, or without them for `.data`."""
        if self.of_data and torch.is_grad_enabled():
            with torch.no_grad():
                return self.values().detach()
        layer, name = self.of_layer, self.of_name
        with layer.locked():
            deltas = layer.deltas(name)
            if self.tuned().merged_adapters or (self.tuned().has_effective(deltas) and not torch.is_grad_enabled()):
                return layer.base_parameter(name).detach()
            found: Tensor = layer.base_values(name) if layer.disable_adapters else layer.effective(name)
            return found

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if freezes(func, args, kwargs):
            return args[0]  # the base parameter is frozen, and the adapter trains its deltas or not as a whole
        name = getattr(func, "__name__", "")
        of_property = getattr(getattr(func, "__self__", None), "__name__", "")
        if name == "__get__" and of_property == "data":
            found = CurrentWeight.of(args[0].of_layer, args[0].of_name)
            found.of_data = True
            return found
        if func is F.embedding and (rows := looked_up(*args, **kwargs)) is not None:
            return rows
        if name in OF_MEMORY:
            args[0].in_memory = args[0].values().detach()  # kept as long as this is
            return func(args[0].in_memory, *args[1:], **kwargs)
        if name in SIZES or (name == "__get__" and of_property in PROPERTIES):
            with as_plain_tensors():
                return func(*args, **kwargs)
        if changes(name) and args and isinstance(args[0], CurrentWeight):
            what = f"setting {of_property}" if name == "__set__" else name
            raise RuntimeError(
                f"{what} would change a copy of {args[0].tuned().name!r} that has the deltas of adapters, and be lost; "
                "change the base parameter, layer.get_base_layer(), while no adapter is in use, as within "
                "disable_adapter(), or the deltas with set_mask"
            )
        return func(*computed(args), **computed(kwargs))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """For operations that come past `__torch_function__`, such as those of the backward pass."""
        with torch.no_grad():
            return func(*computed(args), **computed(kwargs or {}))


class Reading(torch.autograd.Function):
    """A [`CurrentWeight`] whose gradient goes to the deltas."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, parameter: TunedParameter, deltas: Deltas, *views: Tensor) -> Tensor:
        ctx.made_of = Snapshot(parameter, deltas, views)  # not saved, see EffectiveWeight
        return without_memory(weight)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *gradients_of_entries(grad_output, ctx.made_of, ctx.needs_input_grad[3:])


def without_memory(weight: Tensor) -> CurrentWeight:
    found: CurrentWeight = torch.Tensor._make_wrapper_subclass(
        CurrentWeight, weight.size(), strides=weight.stride(), dtype=weight.dtype, device=weight.device
    )
    return found


def looked_up(
    ids: Tensor,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor | None:
    """Rows of a table, with gradients for these rows alone; None where torch has to compute with the whole table."""
    plain = max_norm is None and not scale_grad_by_freq and not sparse
    if not isinstance(weight, CurrentWeight) or weight.of_data or not plain:
        return None
    layer, tuned = weight.of_layer, weight.tuned()
    with layer.locked():
        deltas = () if layer.disable_adapters or tuned.merged_adapters else layer.deltas(weight.of_name)
        if not deltas or tuned.gradient is not None or not (padding_idx is None or padding_idx >= 0):
            return None
        base, views = layer.base_parameter(weight.of_name).data, active_views(deltas)
        found: Tensor = SparseDeltaEmbedding.apply(ids, base, padding_idx, tuned, deltas, *views)
        return found


def computed(value: Any) -> Any:
    """Arguments with the values of all current weights in them."""
    if isinstance(value, CurrentWeight):
        return value.values()
    if type(value) in (tuple, list):
        return type(value)(map(computed, value))
    return {key: computed(x) for key, x in value.items()} if type(value) is dict else value


def freezes(func: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    """Whether a function would freeze the tensor that is its first argument."""
    if getattr(func, "__name__", "") == "requires_grad_":
        wanted = args[1] if len(args) > 1 else kwargs.get("requires_grad", True)
    elif func == torch.Tensor.requires_grad.__set__:  # type: ignore[attr-defined]
        wanted = args[1]
    else:
        return False
    return not wanted


def changes(name: str) -> bool:
    """Whether a function of that name changes the tensor that is its first argument."""
    in_place = (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
    return in_place or name in ("__setitem__", "__set__")


OF_MEMORY = {"data_ptr", "untyped_storage", "is_shared"}
SIZES = {
    *("size", "stride", "dim", "ndimension", "numel", "nelement", "element_size", "get_device", "storage_offset"),
    *("is_floating_point", "is_complex", "is_contiguous", "__len__", "register_hook"),
}
PROPERTIES = {
    *("dtype", "shape", "device", "ndim", "layout", "itemsize", "nbytes", "names", "is_cuda", "is_cpu", "is_meta"),
    *("is_sparse", "is_quantized", "is_mps", "is_xpu", "requires_grad", "is_leaf", "grad_fn", "grad", "_version"),
}
