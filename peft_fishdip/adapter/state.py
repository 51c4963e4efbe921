"""What an adapter is made of: a sparse delta for each base parameter, and one trainable vector for all of them."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast
from weakref import ref

import torch
from torch import Tensor, nn

from ..config import FishDipConfig
from ..distributed import refuse_sharded
from ..private import own_parameter, version_of
from .atomic import Write, assign, copy_into
from .entries import Entries, MaskChange, with_fewer_inactive
from .handles import handle_of
from .inner_gradients import InnerGradients
from .lineage import Lineage
from .mask_record import MaskUpdate
from .positions import gathered, locate
from .recording import is_recorded


class SparseDelta:
    """The delta of one adapter to one base parameter.

    Active entries are trained. Inactive entries have left the mask and keep their delta. The active values are stored
    in the adapter's trainable vector, divided by `scale`, a power of two; the inactive ones in `entries`, unscaled.
    """

    def __init__(self, name: str, shape: torch.Size, scale: float, state: AdapterState) -> None:
        self.name = name
        self.shape = shape
        self.scale = scale
        self.state = state
        self.index = len(state.deltas)
        self.handle = handle_of(self)
        self._owner: tuple[ref[BaseValues], str] | None = None
        empty = torch.empty(0, dtype=torch.int64, device="cpu")
        self.set_positions(empty, empty, torch.empty(0, dtype=torch.float32, device="cpu"))

    def set_positions(self, active: Tensor, inactive: Tensor, inactive_values: Tensor) -> None:
        self.entries = Entries(active, inactive, inactive_values)

    @property
    def active(self) -> Tensor:
        return self.entries.active

    @property
    def inactive(self) -> Tensor:
        return self.entries.inactive

    @property
    def inactive_values(self) -> Tensor:
        return self.entries.inactive_values

    @property
    def support(self) -> Tensor:
        return self.entries.support

    def belongs_to(self, layer: BaseValues, name: str) -> None:
        """Set the layer that owns this delta, and the name of its parameter there."""
        self._owner = ref(layer), name

    def base_values(self) -> Tensor | None:
        """The base values, in the parameter's shape; None if they are not whole and plain here (quantised, sharded, on
        meta)."""
        layer = None if self._owner is None else self._owner[0]()
        return None if layer is None or self._owner is None else layer.plain_base_values(self._owner[1])

    def first_base_values(self) -> Tensor:
        """The base values that the first mask and values of an adapter are chosen by, dequantized."""
        layer: Any = self._owner[0]()  # type: ignore[index]
        values: Tensor = layer.base_values(self._owner[1])  # type: ignore[index]
        return values.detach()

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_owner": None if self._owner is None else (self._owner[0](), self._owner[1])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        layer, name = state["_owner"] or (None, "")
        self.__dict__.update(state, _owner=None if layer is None else (ref(layer), name))
        self.handle = handle_of(self)

    def __len__(self) -> int:
        return self.entries.support.numel()

    @property
    def numel(self) -> int:
        return self.shape.numel()

    def values(self, view: Tensor) -> Tensor:
        """The deltas over `support`, float32, given the adapter's trainable values of this parameter."""
        values = view.detach().float()
        if self.scale != 1.0:
            values = values * self.scale
        inactive = self.entries.inactive_values
        return torch.cat([values, inactive.float()]) if inactive.numel() else values

    def to(self, device: torch.device) -> None:
        if self.active.device != device:
            self.entries = self.entries.to(device)


class BaseValues(Protocol):
    """A layer, see layers/layer.py."""

    def plain_base_values(self, name: str) -> Tensor | None:
        """The base values of that name, if they are whole and plain here."""


class Driver(Protocol):
    """What updates the mask of an adapter by itself, see tuner/auto_update.py."""

    driving: bool

    def stop(self) -> None:
        """Leave the updates to somebody else from now on."""

    def close(self) -> None:
        """Release the model."""

    def around(self, optimizer: Any) -> Any:
        """The outermost optimizer that has been seen to step an optimizer; that one itself if there is none."""


POSITIONS, VALUES, SUMMARY = "fishdip_indices", "fishdip_values", "fishdip_summary"
"""The kinds of tensors of an adapter in a state dict."""


class AdapterState:
    """One adapter of a model: its deltas, and the flat trainable vector of their active values.

    The vector has a constant length K, whatever the mask: DDP refuses parameters that change their shape, and the
    optimizer's state is re-indexed in place. It is registered on one module, the carrier, so that `.to()`, optimizers
    and checkpoints treat it like any parameter. It is read through the carrier, because some of them replace the
    Parameter object.

    Attributes:
        awaited_sizes: support size per parameter of the checkpoint that this adapter was made for, until it is loaded.
        awaited_storage: if that is compact, per parameter the bytes of its positions and the dtype of its values.
        set_by_name: tensors of a load that sets attributes, by kind and parameter name, while some are missing.
        take_out: makes the model what it was before this adapter was added.
        start_afresh: gives the adapter the first mask of one that has no checkpoint; `afresh` is its `version` then.
        last_load: the call of `load_state_dict` that looked for this adapter last, whether it found it, and whether the
            vector was with it.
        installed: the very tensors that PEFT had installed, and what they made of the adapter.
        untouched: no update, no training, nothing loaded: the mask is the data-free one.
        driver: what updates the mask by itself, and looks at the learning rate; None once the adapter is deleted.
        dtype: of the vector, as it was made, or cast since then together with its module.
        sharded: FSDP2 has sharded the vector; it puts whole parameters back during a forward pass.
        traced: the views of the vector while a forward pass is being compiled.
        inner: where gradients of checkpointed blocks go, under DistributedDataParallel.
        lineage: tells whether the values belong to the mask.
    """

    def __init__(self, adapter_name: str, config: FishDipConfig) -> None:
        self.adapter_name = adapter_name
        self.config = config
        self.deltas: list[SparseDelta] = []
        self.awaited_sizes, self.num_updates = config.checkpointed()
        self.awaited_storage = config.checkpointed_storage()
        self.last_update: MaskUpdate | None = None  # of this process
        self.carrier: nn.Module | None = None
        self.set_by_name: dict[tuple[str, str], Tensor] = {}
        self.take_out: Callable[[], None] | None = None
        self.start_afresh: Callable[[AdapterState], None] | None = None
        self.afresh: tuple[int, int] | None = None
        self.last_load: tuple[object, bool, bool] = (None, False, False)
        self.installed: tuple[dict[tuple[str, str], Tensor], object] | None = None
        self.untouched, self.warned = True, False
        self.driver: Driver | None = None
        self.dtype = torch.float32
        self._first_version: tuple[tuple[int, int] | None] | None = None
        self.sharded = False
        self._views: tuple[tuple[object, ...], tuple[Tensor, ...]] | None = None
        self.traced: tuple[Tensor, ...] | None = None
        self.inner: InnerGradients | None = None
        self.lineage = Lineage()

    @property
    def flat(self) -> nn.Parameter:
        """The trainable vector: float32 (K,)."""
        assert self.carrier is not None
        flat = own_parameter(self.carrier, "flat")
        if flat is None:
            return cast(nn.Parameter, self.carrier.flat)
        if flat.dtype.itemsize < self.dtype.itemsize and not self.sharded:
            self._undo_cast(flat)
        return flat

    @torch.no_grad()
    def _undo_cast(self, flat: nn.Parameter) -> None:
        """Give the vector its dtype again after an assignment to `data`: steps and averages of Adam get lost in half
        precision. On a quantized base, trl casts all trainable parameters in this way."""
        found, grad = flat.dtype, flat.grad
        flat.grad = None
        flat.data = flat.data.to(self.dtype)
        flat.grad = None if grad is None else grad.to(self.dtype)
        self.drop_views()
        if bool(flat.any()):
            warnings.warn(
                f"the values of adapter {self.adapter_name!r} were cast to {found} by assigning to `data`; they are "
                f"{self.dtype} again, but rounded. On a quantized base trl does this while a trainer is made: load the "
                "adapter after that.",
                UserWarning,
                stacklevel=2,
            )

    def refuse_sharded(self) -> None:
        """Raise ValueError if no process has the whole trainable vector."""
        refuse_sharded("the adapter's trainable vector", self.flat, (sum(self.sizes),), fsdp2=self.sharded)

    @property
    def sizes(self) -> list[int]:
        """Number of active entries of each delta."""
        return [delta.active.numel() for delta in self.deltas]

    @property
    def support_sizes(self) -> dict[str, int]:
        """Number of entries with a delta, per base parameter."""
        return {delta.name: len(delta) for delta in self.deltas}

    @property
    def waiting(self) -> bool:
        """Whether this adapter was made for a checkpoint that has not been loaded yet."""
        return self.untouched and self.awaited_sizes is not None

    def begin(self) -> None:
        """Called before any use: an adapter with the config of a checkpoint that was not loaded becomes a fresh one."""
        if self.waiting and self.start_afresh is not None and not self.set_by_name and not self.flat.is_meta:
            self.start_afresh(self)

    @property
    def num_parameters(self) -> int:
        """N, the number of entries of the targeted parameters."""
        return sum(delta.numel for delta in self.deltas)

    def __getstate__(self) -> dict[str, object]:
        no_load: dict[str, object] = {"set_by_name": {}, "take_out": None, "last_load": (None, False, False)}
        return self.__dict__ | no_load | {"installed": None, "inner": None, "_views": None}  # views have their graph

    @property
    def version(self) -> tuple[int, int] | None:
        """Differs after each change of the trainable vector, except through `.data`; None if torch does not count its
        changes, as for tensors made in inference mode."""
        flat = self.flat
        version = version_of(flat)
        return None if version is None else (flat.data_ptr(), version)

    def is_installed(self, tensors: Mapping[tuple[str, str], Tensor]) -> bool:
        """Whether these very tensors were installed by PEFT, and nothing has changed since."""
        if self.installed is None or self.version is None:
            return False
        installed, contents = self.installed
        same = installed.keys() == tensors.keys() and all(tensors[key] is found for key, found in installed.items())
        return same and contents == self.contents()

    def contents(self) -> object:
        """Something that stays equal as long as nothing has changed."""
        return [self.version, *(delta.entries for delta in self.deltas)]

    def views(self) -> tuple[Tensor, ...]:
        """The trainable values per delta, as one split of the vector, made once per version of it.

        One split costs one concatenation in backward; a slice per layer would cost a vector of K zeros each.
        """
        self.begin()
        flat: Tensor = self.flat if self.inner is None else self.inner.source(self.flat)
        if torch.compiler.is_compiling() or is_recorded():
            return flat.split(self.sizes) if self.traced is None else self.traced
        with_grad = flat.requires_grad and torch.is_grad_enabled()
        mode = (with_grad, torch.is_inference_mode_enabled(), threading.get_ident())
        key = (id(flat), version_of(flat), flat.data_ptr(), mode)
        cached = self._views
        if cached is None or cached[0] != key:
            self.refuse_partly_loaded()
            self._views = cached = (key, flat.split(self.sizes))
        return cached[1]

    def refuse_partly_loaded(self) -> None:
        """Raise ValueError if a load that sets attributes, as transformers' `load_adapter` does, has left some out."""
        if self.set_by_name:
            raise ValueError(
                f"only {len(self.set_by_name)} of the tensors of adapter {self.adapter_name!r} have been loaded: its "
                "file is incomplete. Delete the adapter, and load a whole file."
            )

    def stop_driving(self) -> None:
        """Leave mask updates to the caller: from now on they happen only when he asks for one."""
        if self.driver is not None:
            self.driver.stop()

    def close(self) -> None:
        """Release what an adapter that is taken out of its model has there."""
        if self.driver is not None:
            self.driver.close()
            self.driver = None

    def drop_views(self) -> None:
        self._views = None

    def view_of(self, delta: SparseDelta, flat: Tensor) -> Tensor:
        """The part of the trainable vector that has the active values of one delta."""
        start = sum(before.entries.active.numel() for before in self.deltas[: delta.index])
        return flat[start : start + delta.active.numel()]  # a split would make a view for each of all deltas

    def stored_values(self) -> list[Tensor]:
        """The deltas over the support of each parameter, float32, as they are saved."""
        flat = self.flat.detach()
        return [delta.values(view).clone() for delta, view in zip(self.deltas, flat.split(self.sizes), strict=True)]

    def allocate(self, positions: Sequence[tuple[Tensor, Tensor]], carrier: nn.Module, flat: Tensor) -> None:
        """Set the first mask: active and inactive positions of each delta; all inactive deltas are zero."""
        self.carrier = carrier
        for delta, (active, inactive) in zip(self.deltas, positions, strict=True):
            delta.set_positions(
                active, inactive, torch.zeros(inactive.numel(), dtype=torch.float32, device=inactive.device)
            )
        carrier.flat = nn.Parameter(flat)
        self.dtype = flat.dtype
        self.drop_views()

    def warn_of_unscored_mask(self) -> None:
        """Called from backward passes: warn once that the mask being trained is the data-free one."""
        if self.warned or not self.untouched or self.num_updates:
            return
        if self.driver is not None and self.driver.driving:
            if self._first_version is None:
                self._first_version = (self.version,)
            if self._first_version == (self.version,):
                return  # nothing has been trained yet, and the driver will come before it is
        self.warned = True
        warnings.warn(
            f"Adapter {self.adapter_name!r} is being trained on its data-free {self.config.init_mask} mask: no example "
            "has scored the parameters yet. Add FishDipCallback() to the Trainer, or call "
            "model.base_model.update_mask(examples, optimizer=optimizer) before the first step.",
            UserWarning,
            stacklevel=2,
        )

    @torch.no_grad()
    def change_to(self, positions: Mapping[str, Tensor]) -> MaskChange:
        """Compute the change to a mask of `positions` (int64, ascending, per parameter; K in all).

        Entries that leave the mask keep their delta, or return to zero with `dropped="reset"` or for lack of room (see
        `max_support`); an inactive entry that enters again starts from its delta. A data-free mask that was never
        trained leaves no inactive entries.
        """
        flat = self.flat
        keep_dropped = self.config.dropped == "freeze" and not (self.untouched and not bool(flat.any()))
        entries, values, sources, start = [], [], [], 0
        for delta, old in zip(self.deltas, flat.detach().split(self.sizes), strict=True):
            new = positions[delta.name].to(delta.active.device)
            old = old.to(new.device)
            index, found = locate(delta.active, new)
            value = torch.where(found, old[index], 0) if old.numel() else old.new_zeros(new.numel())
            inactive, inactive_values = new[:0], delta.inactive_values[:0]
            if keep_dropped:
                if delta.inactive.numel():
                    inactive_index, returning = locate(delta.inactive, new)
                    returning_values = (delta.inactive_values[inactive_index] / delta.scale).to(value.dtype)
                    value = torch.where(returning, returning_values, value)
                support_values = torch.cat([old.to(delta.inactive_values.dtype) * delta.scale, delta.inactive_values])
                stays = ~locate(new, delta.support)[1]
                inactive, order = delta.support[stays].sort()
                inactive_values = support_values[stays][order]
            entries.append(Entries(new, inactive, inactive_values))
            values.append(value.to(flat.device))
            sources.append(torch.where(found, index + start, -1).to(flat.device))
            start += old.numel()
        return MaskChange(self._within_bounds(entries), torch.cat(values), torch.cat(sources))

    def _within_bounds(self, entries: list[Entries]) -> list[Entries]:
        most, k = self.config.max_support, self.flat.numel()
        return entries if most is None else with_fewer_inactive(entries, math.floor(most * k) - k)

    def writes_of(self, change: MaskChange) -> list[Write]:
        """The writes that make a change of mask, the gradient of the vector included."""
        grad = self.flat.grad
        moved = [] if grad is None else [copy_into(grad, gathered(grad, change.source))]
        return [*self.replace_entries(change.entries, change.values), *moved]

    @torch.no_grad()
    def replace_entries(self, entries: Sequence[Entries], values: Tensor) -> list[Write]:
        """The writes that replace all entries and the trainable vector, (K,)."""
        flat, carrier = self.flat, self.carrier
        assert carrier is not None
        writes = [assign(delta, "entries", new) for delta, new in zip(self.deltas, entries, strict=True)]
        if flat.is_meta:
            writes.append(assign(carrier, "flat", nn.Parameter(values, requires_grad=flat.requires_grad)))
        else:
            writes.append(copy_into(flat, values))
        writes += [assign(self, "untouched", False), assign(self, "awaited_sizes", None)]
        drop = Write(self.drop_views, self.drop_views)
        return [drop, *writes, drop]
