"""How adapters come into a model, are merged, saved, loaded, and leave it again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from ..adapter.atomic import repeat_once
from ..adapter.base_parameter import fingerprints
from ..adapter.combine import Combination, listed, refuse_unknown
from ..adapter.containers import compact_state_dict, install_from, with_present_tensors, without_vectors
from ..adapter.heads import classes_of, fit_classifier
from ..adapter.initial import check_sizes, is_replaceable
from ..adapter.model_card import CheckpointMetadata, write_card
from ..adapter.state import AdapterState
from ..config import INJECTED
from ..layers.compiled import split_once
from ..layers.layer import FishDipLayer, layers_of, merged_as_before_on_failure, tuned_parameters
from ..layers.output_embeddings import OutputEmbeddings
from ..quantization import has_quantized_storage
from .arguments import check_names
from .calls import calls_of
from .combination import add_combined
from .generation import generating_merged
from .guards import refuse_adapter_names
from .injection import Injection, as_before_on_failure, take_out, taking_out, unmark, unwrap
from .mask_update import base_parameters
from .switching import Switching
from .targets import checked_by_name, find_targets, refuse_name, target_what_is_in, with_linear_names
from .unmatched import warn_of_unmatched


class AdapterTuner(Switching):
    """A PEFT tuner of sparse deltas, without the choice of what to train: see FishDipModel."""

    prefix: str = "fishdip_"
    tuner_layer_cls = FishDipLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (PEFT's own declaration)
    _in_peft_model = False

    def _layers(self) -> Iterator[FishDipLayer]:
        return layers_of(self.model)

    def _states(self) -> dict[str, AdapterState]:
        return self._states_of(self.model)

    @staticmethod
    def _states_of(model: nn.Module) -> dict[str, AdapterState]:
        """Adapters by name, from the layers, because PEFT and transformers may drop the tuner."""
        return {
            name: values.state  # type: ignore[misc]
            for layer in layers_of(model)
            for name, values in layer.fishdip_values.items()
        }

    def _state(self, adapter_name: str | None) -> AdapterState:
        states = self._states()
        if adapter_name is None:
            if len(self.active_adapters) != 1:
                raise ValueError(
                    f"the active adapters are {listed(self.active_adapters)}; name the one you mean by adapter_name."
                )
            adapter_name = self.active_adapters[0]
        check_names(adapter_name)
        refuse_unknown(adapter_name, states)
        states[adapter_name].begin()
        return states[adapter_name]

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Freeze adapters, or train them again; see BaseTuner.

        Raises:
            ValueError: there is no such adapter.
        """
        check_names(adapter_names, "adapter_names")
        refuse_unknown(adapter_names, self.peft_config)
        super().set_requires_grad(adapter_names, requires_grad)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, with the deltas of the active adapters."""
        refuse_adapter_names(kwargs)
        return super().forward(*args, **kwargs)

    def get_output_embeddings(self) -> nn.Module | None:
        """The output embeddings of the model, if it has any; their `weight` is the one that the model computes with."""
        found = getattr(self.model, "get_output_embeddings", lambda: None)()
        return OutputEmbeddings(found) if isinstance(found, FishDipLayer) else found

    # ----- injection ----------------------------------------------------------------------------------------------

    def __init__(self, model: nn.Module, peft_config: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter into the model; see BaseTuner. After an error or interrupt, the model is as it was."""
        # a PeftModel gives its dict of configs; transformers and inject_adapter_in_model give the config itself
        self._in_peft_model = isinstance(peft_config, dict)
        try:
            with as_before_on_failure(model, adapter_name, is_new=adapter_name not in self._states_of(model)):
                super().__init__(model, peft_config, adapter_name, *args, **kwargs)
        except BaseException:
            unmark(model)
            raise

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter into the model; see BaseTuner.

        Raises:
            ValueError: the adapter exists, or cannot have this name, K would be 0, a parameter cannot be tuned, or the
                config has sizes, or with `strict` a fingerprint, of another model. The model is as it was then.
        """
        try:
            self._inject_adapter(model, adapter_name, *args, **kwargs)
        except BaseException:
            if adapter_name not in self._states_of(model):
                self.peft_config.pop(adapter_name, None)  # PEFT puts it there before it calls
            raise

    def _inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        restore, targeted = None, [*self.targeted_module_names]
        try:
            refuse_name(adapter_name)
            before = self._states_of(model).get(adapter_name)
            if before is not None and is_replaceable(before):
                take_out(model, adapter_name)  # its file could not be read; this is the next try
            elif before is not None:
                raise ValueError(
                    f"there is an adapter {adapter_name!r} already; choose another name, or delete it first."
                )
            restore = taking_out(model, adapter_name)
            own: Any = self.peft_config[adapter_name]
            own.__dict__[INJECTED] = True
            state_dict = kwargs.pop("state_dict", None)
            if state_dict is not None:
                target_what_is_in(state_dict, own)
            config = with_linear_names(own, model)
            targets = find_targets(model, config, self._in_peft_model)
            if targets:
                check_sizes(config, targets)
                warn_of_unmatched(model, config, targets)
            self._injection = Injection(model, adapter_name, config, targets, restore)
            self._injection.prepare_base()
            self._injection.check_base()
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except BaseException:
            if restore is not None:
                repeat_once(restore)
                self.targeted_module_names = targeted
            raise
        finally:
            self.__dict__.pop("_injection", None)
            for each in self.peft_config.values():
                each.__dict__.pop(INJECTED, None)

    def _get_module_names_tied_with_embedding(self) -> list[str]:
        """PEFT asks each model for its embedding; some have none."""
        try:
            return list(super()._get_module_names_tied_with_embedding())
        except NotImplementedError:
            return []

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        """PEFT calls this for each module. The first call puts in the whole adapter, because its K is global."""
        self._injection.put_in_once()

    def _check_target_module_exists(self, peft_config: Any, key: str) -> Any:  # type: ignore[override]
        injection = self.__dict__.get("_injection")
        if injection is None:  # PEFT's inspect_matched_modules
            return BaseTuner._check_target_module_exists(peft_config, key)
        if key in injection.found:
            return True
        by_name = checked_by_name(peft_config, key)
        return by_name if not by_name else False

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        return peft_config  # target_modules=None is all modules

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """Warn of tied modules that PEFT copies to train them whole. Those among the targets share one delta."""
        without_targets = copy.copy(peft_config)
        without_targets.target_modules = None
        super()._check_tied_modules(model, without_targets)

    def _check_merge_allowed(self) -> None:
        """PEFT would warn of tied modules here too."""

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        refuse_adapter_names(kwargs)
        if torch.compiler.is_compiling():
            with split_once(self._states().values()):
                yield
            return
        with calls_of(self.model).calling(self.active_adapters), generating_merged(self.model):
            yield

    # ----- merging, summing, removing -----------------------------------------------------------------------------

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Write the deltas of adapters (default: the active ones) into the base parameters; see BaseTuner.

        Raises:
            ValueError: there is no such adapter; a torchao weight cannot be quantised anew; or, with `safe_merge`, a
                merged value is not finite. Nothing has been merged then.
        """
        check_names(adapter_names or [], "adapter_names")
        refuse_unknown(adapter_names or [], self.peft_config)
        wanted = {layer: layer.active_adapters if adapter_names is None else adapter_names for layer in self._layers()}
        if wanted and all(set(names) <= set(layer.merged_adapters) for layer, names in wanted.items()):
            warnings.warn("All adapters are already merged, nothing to do.", UserWarning, stacklevel=2)
            return
        for layer in wanted:
            layer.refuse_merge()
        if safe_merge:
            for layer, names in wanted.items():
                layer.check_finite([*layer.merged_adapters, *names])
        with merged_as_before_on_failure([*wanted]):
            super().merge_adapter(adapter_names=adapter_names)

    def unmerge_adapter(self) -> None:
        """Restore the base parameters bitwise; see BaseTuner. An interrupt is raised after all are restored."""
        repeat_once(super().unmerge_adapter)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; see BaseTuner. An interrupt is raised after it is deleted.

        Raises:
            ValueError: there is no such adapter, or it is merged.
        """
        known = adapter_name in self.peft_config
        try:
            super().delete_adapter(adapter_name)
        except BaseException:
            if known and adapter_name not in self.peft_config:
                repeat_once(lambda: self._finish_deletion(adapter_name))
            raise

    def _finish_deletion(self, adapter_name: str) -> None:
        for layer in self._layers():
            layer.delete_adapter(adapter_name)
        self.active_adapter = next(self._layers()).active_adapters

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        if merge:
            self.merge_adapter(adapter_names, safe_merge)
        else:
            self.unmerge_adapter()
        unwrap(self.model)
        # what is left are the modules that PEFT trains whole
        unload: Any = super()._unload_and_optionally_merge
        return unload(merge, progressbar, safe_merge, adapter_names)

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "linear",
        density: float | None = None,
        majority_sign_method: str = "total",
    ) -> None:
        """Add an adapter whose delta is combined from those of `adapters`, with the arguments of PEFT's LoRA.

        The deltas themselves are combined, in float32 and at their entries alone. "linear" is the sum of weight times
        delta: weights [1, -1] give a difference, a single weight a scaling or negation. It has the entries of all
        adapters, also where the sum is zero. Products and sums are rounded to float32, in the order of `adapters`; so a
        scaling by a power of two, a negation, and a sum of adapters without a common entry are exact.

        The result has the config of the first adapter, but not its units: its K entries with the largest deltas are
        active, the others inactive; if it has fewer than K, all are, and its density is theirs. Adapters may differ in
        density, delta_scale and dtype. A module that one adapter trained whole (modules_to_save) is copied.

        Args:
            adapters: names of adapters with the same targets.
            weights: one factor each.
            adapter_name: name of the new adapter.
            combination_type: "linear"; "intersection", the same at the entries that all adapters have, and nowhere
                else; "magnitude_prune", "ties" (Yadav et al., NeurIPS 2023), "dare_linear" or "dare_ties" (Yu et al.,
                ICML 2024), as PEFT computes them, but also for a single adapter. What these leave out is no entry.
            density: share of each adapter's entries that these four keep, in (0, 1]: the largest of each parameter, or
                with "dare" random ones, drawn by the seed of the first adapter's config and by `adapter_name`.
            majority_sign_method: "total" or "frequency", for "ties" and "dare_ties".

        Raises:
            ValueError: an unknown or doubled name, other targets, an adapter of another base model, a module that
                several have trained whole, a wrong number of weights, a wrong density, a weight or sum that is not
                finite, or no entry that is left. Nothing was added then.
        """
        combination = Combination(adapters, weights, combination_type, density, majority_sign_method)
        add_combined(self, combination, adapter_name)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Cast the trainable values to float32, or with autocast_adapter_dtype=False to the dtype of the base."""
        try:
            state = self._states().get(adapter_name)
            super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
            if state is not None and not autocast_adapter_dtype:
                bases = base_parameters(self.model, state).values()
                dtypes = [base.dtype for base in bases if not has_quantized_storage(base)]
                flat, state.dtype = state.flat, dtypes[0] if dtypes else torch.float32
                flat.data = flat.data.to(state.dtype)
                state.drop_views()
        except BaseException:  # PEFT calls this last when it adds an adapter
            state = self._states().get(adapter_name)
            if state is not None and state.untouched and state.take_out is not None:
                repeat_once(state.take_out)
                self.peft_config.pop(adapter_name, None)
            raise

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: Any,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """The adapter's part of a state dict, without the trainable vector, whose values are saved with the deltas.

        Sets the sizes in the config, which PEFT saves right after this, so that every loader can allocate them. With
        `compact=True` the tensors are those of a compact file.

        The adapter's tensors are taken out of `state_dict`, which is PEFT's own copy: where embeddings have been
        resized, PEFT adds all that it finds there of their modules to what this returns.
        """
        state = cls._states_of(model)[adapter_name]
        lines = fingerprints(tuned_parameters(model, adapter_name))
        classes = classes_of(model)
        card = partial(write_card, metadata=CheckpointMetadata.of(state, lines, classes))
        selected = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, *args, **kwargs)
        for key in selected:
            state_dict.pop(key, None)
        selected = without_vectors(selected)
        if state.waiting:  # for a checkpoint that was never loaded: what is saved is a fresh adapter
            state.begin()
            selected = with_present_tensors(model, state, selected)
        storage = None
        if config.compact:  # all adapters stay exact while one is trained: their sum shall be the same when it goes on
            exact = any(parameter.requires_grad for parameter in model.parameters())
            selected, storage = compact_state_dict(model, state, selected, exact)
        config.prepare_save(state.support_sizes, lines, classes, storage, after_save=card)
        return selected

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Map the keys of a checkpoint to those of the model, and check and install the whole adapter.

        Raises:
            ValueError: the tensors are damaged or belong to another model. An adapter that was there before is
                unchanged then; one that was being added is taken out again.
        """
        told = without_vectors(state_dict)  # files of resized models had one, in version 0.2 before its release
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, told)
        state = cls._states_of(model)[adapter_name]
        waiting = state.waiting
        try:
            remapped = install_from(model, state, remapped)
        except BaseException:
            if waiting and state.take_out is not None:
                state.take_out()
            raise
        fit_classifier(model, adapter_name, remapped, config.id2label)
        return remapped
