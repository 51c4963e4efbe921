"""The tuner: puts layers into a model, chooses masks, and sums, merges and removes adapters."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, _ExcludedModule, _maybe_include_all_linear_layers
from torch import Tensor, nn

from .adapter.atomic import repeat_once
from .adapter.base_parameter import fingerprints
from .adapter.combine import check_combination, listed, refuse_unknown, weighted_sum
from .adapter.containers import install_from, is_vector
from .adapter.initial import check_sizes
from .adapter.install import install_sum
from .adapter.model_card import CheckpointMetadata, write_card
from .adapter.state import AdapterState, MaskUpdate
from .config import is_count
from .distributed import raise_on_all_ranks, refuse_sharded
from .importance.examples import MAX_OF_A_SHARE, Collator, padding_collator
from .importance.fisher import scoring_mode
from .importance.losses import LossFn, default_loss_fn
from .importance.recent import RecentExamples
from .importance.scoring import Scores, Scoring
from .layers.compiled import split_once
from .layers.layer import FishDipLayer, layers_of, merged_as_before_on_failure, tuned_parameters, unmerge_all
from .optim.carry_over import check_optimizer
from .quantization import has_quantized_storage
from .tuner.generation import generating_in_place
from .tuner.guards import refuse_adapter_names, refuse_unfit
from .tuner.injection import Injection, discard, take_out, taking_out, unwrap
from .tuner.mask_update import change_mask, ordered_scores
from .tuner.targets import find_targets


class FishDipModel(BaseTuner):
    """Sample-aware dynamic sparse fine-tuning (Das et al., EMNLP 2023) of any torch model.

    Reached as `model.base_model` of what `get_peft_model(model, FishDipConfig(...))` returns. Training goes:

    ```python
    for step, batch in enumerate(loader):
        if step % 100 == 0:
            model.base_model.update_mask(dataset, data_collator=collator, optimizer=optimizer)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ```

    or `Trainer(..., callbacks=[FishDipCallback()])`. Base parameters go by their names in the unwrapped model, such as
    `encoder.block.0.layer.0.SelfAttention.q.weight`; a tied parameter by its first one.
    """

    prefix: str = "fishdip_"
    tuner_layer_cls = FishDipLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (PEFT's own declaration)

    # ----- choosing what to train ---------------------------------------------------------------------------------

    def update_mask(
        self,
        examples: Any,
        *,
        data_collator: Collator | None = None,
        optimizer: Any = None,
        batch_size: int = 8,
        loss_fn: LossFn | None = None,
        step: int | None = None,
        adapter_name: str | None = None,
    ) -> MaskUpdate:
        """Choose the K entries that matter most for the examples that the model gets most wrong.

        Scores all examples, takes those with the highest loss (or as the config says), computes their empirical Fisher
        information over all N targeted parameters at their effective values, keeps the global top K, and carries
        deltas, gradients and optimizer state over.

        Args:
            examples: a Dataset or sequence of feature dicts (`input_ids`, `labels`, ...), an iterable of ready batches,
                or `recent_examples`, which are not scanned, and forgotten afterwards. Several processes are each given
                the same Dataset, or each their own batches.
            data_collator: from a list of features to a batch; pads on the right if not given. Unused for batches.
            optimizer: the optimizer that trains the adapter, whose state then follows the mask.
            batch_size: examples per batch while losses are computed.
            loss_fn: from model and batch to the losses of its examples, shape (batch,). Not needed for transformers'
                encoder-decoder models, causal and masked LMs, token and sequence classifiers.
            step: the optimizer step, for the record.
            adapter_name: whose mask to update; the active adapter if not given.

        Raises:
            ValueError: too few examples, one without a target, a loss, score or delta that is not finite, losses
                without gradients, an optimizer that does not train the adapter, sharded weights, or merged or disabled
                adapters. Nothing has changed then.
            RuntimeError: another process has met such an error, or ended. Nothing has changed then.
        """
        started = time.perf_counter()
        if not is_count(batch_size):
            raise ValueError(f"batch_size={batch_size!r} must be an int, at least 1.")
        state, optimizer = raise_on_all_ranks(lambda: self._ready_for_update(adapter_name, optimizer, step))
        parameters = self._base_parameters(state)
        pad_token_id = getattr(getattr(self.model, "config", None), "pad_token_id", None)
        scoring = Scoring(
            self.model,
            parameters,
            state.config,
            examples,
            data_collator or padding_collator(pad_token_id),
            batch_size,
            loss_fn or default_loss_fn(self.model, state.config.example_loss),
            shapes={delta.name: delta.shape for delta in state.deltas},
            seed=state.config.seed + state.num_updates,
        )
        raise_on_all_ranks(lambda: refuse_unfit(self._layers(), state))
        with self._merged_meanwhile(), scoring_mode(self.model, parameters.values()):
            scores = scoring.scores()
        squared = 1 if state.config.importance == "fisher" else 2
        update = change_mask(state, scores, optimizer, started, step, expected_power=squared)
        if isinstance(examples, RecentExamples):
            examples.forget()
        return update

    def recent_examples(self, loss_fn: LossFn | None = None, adapter_name: str | None = None) -> RecentExamples:
        """Listen to training from now on, to update the mask by the losses that it computes: see RecentExamples.

        Raises:
            ValueError: the config chooses examples in another way than by their loss, or the loss is not known.
        """
        config = self._state(adapter_name).config
        if config.sample_selection != "highest_loss":
            raise ValueError(
                f"sample_selection={config.sample_selection!r} does not look at losses; give update_mask the examples."
            )
        most = MAX_OF_A_SHARE if isinstance(config.num_samples, float) else config.num_samples
        return RecentExamples(self.model, loss_fn or default_loss_fn(self.model, config.example_loss), most)

    def set_mask(
        self,
        scores: Mapping[str, Tensor],
        *,
        optimizer: Any = None,
        step: int | None = None,
        adapter_name: str | None = None,
    ) -> MaskUpdate:
        """Make the K entries with the highest of any scores the trainable ones; all else as in `update_mask`.

        Args:
            scores: for each targeted base parameter a tensor of its shape. Only their order counts.
            optimizer, step, adapter_name: as in `update_mask`.

        Raises:
            ValueError: a parameter is missing, unknown or of another shape, or a score is not finite.
            RuntimeError: another process has met such an error, or ended.
        """
        started = time.perf_counter()
        state, optimizer = raise_on_all_ranks(lambda: self._ready_for_update(adapter_name, optimizer, step))
        ordered = raise_on_all_ranks(lambda: ordered_scores(state, scores))
        return change_mask(state, Scores(ordered, (), ()), optimizer, started, step, expected_power=None)

    def mask(self, adapter_name: str | None = None) -> dict[str, Tensor]:
        """Per targeted base parameter the flat positions that are trainable now: (active,) int64, ascending, on CPU."""
        return {delta.name: delta.active.cpu().clone() for delta in self._state(adapter_name).deltas}

    @torch.no_grad()
    def delta(self, adapter_name: str | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """Per targeted base parameter the support of its delta, on the CPU: flat positions, (support,) int64, ascending,
        and deltas, (support,) float32."""
        state = self._state(adapter_name)
        result = {}
        for delta, view in zip(state.deltas, state.flat.split(state.sizes), strict=True):
            positions, order = delta.support.sort()
            result[delta.name] = (positions.cpu(), delta.values(view)[order].cpu())
        return result

    def _ready_for_update(self, adapter_name: str | None, optimizer: Any, step: int | None) -> tuple[AdapterState, Any]:
        """The adapter whose mask is to change, and the torch optimizer that trains it, if any.

        Raises:
            ValueError: its mask cannot change as things are, or `step` is no count.
        """
        if step is not None and step != 0 and not is_count(step):
            raise ValueError(f"step={step!r} must be an int >= 0, the optimizer steps that were made, or None.")
        state = self._state(adapter_name)
        state.refuse_sharded()
        for name, (parameter, tensor) in tuned_parameters(self.model, state.adapter_name).items():
            if not has_quantized_storage(tensor):
                refuse_sharded(name, tensor, parameter.shape)
        return state, None if optimizer is None else check_optimizer(optimizer, state.flat)

    @contextmanager
    def _merged_meanwhile(self) -> Iterator[None]:
        """Within, the base parameters hold the effective values of the active adapters."""
        layers = list(self._layers())
        try:
            for layer in layers:
                layer.merge_active()
            yield
        finally:
            repeat_once(lambda: unmerge_all(layers))

    # ----- adapters and their states ------------------------------------------------------------------------------

    def _layers(self) -> Iterator[FishDipLayer]:
        return layers_of(self.model)

    def _states(self) -> dict[str, AdapterState]:
        return self._states_of(self.model)

    @staticmethod
    def _states_of(model: nn.Module) -> dict[str, AdapterState]:
        """By adapter name; found through the layers, since PEFT and transformers may throw the tuner away."""
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
        refuse_unknown(adapter_name, states)
        return states[adapter_name]

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Activate adapters, whose deltas add up; see BaseTuner.

        Raises:
            ValueError: there is no such adapter.
        """
        refuse_unknown(adapter_name, self.peft_config)
        super().set_adapter(adapter_name, inference_mode)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Freeze adapters, or train them again; see BaseTuner.

        Raises:
            ValueError: there is no such adapter.
        """
        refuse_unknown(adapter_names, self.peft_config)
        super().set_requires_grad(adapter_names, requires_grad)

    def _base_parameters(self, state: AdapterState) -> dict[str, nn.Parameter]:
        """The base parameters that the adapter targets, in its order."""
        found = tuned_parameters(self.model, state.adapter_name)
        return {delta.name: found[delta.name][1] for delta in state.deltas}  # type: ignore[misc]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, with the deltas of the active adapters."""
        refuse_adapter_names(kwargs)
        return super().forward(*args, **kwargs)

    # ----- injection ----------------------------------------------------------------------------------------------

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter into the model; see BaseTuner.

        Raises:
            ValueError: the adapter exists, or cannot have this name, K would be 0, a parameter cannot be tuned, or the
                config has counts, or with `strict` a fingerprint, that belong to another model. The model is as it was
                then.
        """
        if not adapter_name or "." in adapter_name or hasattr(nn.ModuleDict, adapter_name):
            raise ValueError(
                f"adapter_name={adapter_name!r} cannot be a key of torch.nn.ModuleDict, where adapters are kept: it is "
                "empty, has a dot, or is the name of a method there; choose another."
            )
        before = self._states_of(model).get(adapter_name)
        if before is not None and before.waiting:
            take_out(model, adapter_name)  # its file could not be read; this is the next try
        elif before is not None:
            raise ValueError(f"there is an adapter {adapter_name!r} already; choose another name, or delete it first.")
        restore = taking_out(model, adapter_name)
        try:
            config: Any = _maybe_include_all_linear_layers(self.peft_config[adapter_name], model)
            targets, excluded = find_targets(model, config)
            if targets:
                check_sizes(config, targets)
            self._injection = Injection(model, adapter_name, config, targets, excluded, restore)
            self._injection.prepare_base()
            self._injection.check_base()
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except BaseException:
            repeat_once(restore)
            self.peft_config.pop(adapter_name, None)
            raise
        finally:
            self.__dict__.pop("_injection", None)

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        """PEFT calls this for each module; the first call puts in the adapter as a whole, since its K is global."""
        self._injection.put_in_once()

    def _check_target_module_exists(self, peft_config: Any, key: str) -> Any:  # type: ignore[override]
        injection = self.__dict__.get("_injection")
        if injection is None:  # PEFT's inspect_matched_modules
            return BaseTuner._check_target_module_exists(peft_config, key)
        return _ExcludedModule() if key in injection.excluded else key in injection.found

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        return peft_config  # target_modules=None is all modules

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """PEFT warns of tied modules among the targets; here they share one delta."""

    def _check_merge_allowed(self) -> None:
        """PEFT warns of tied modules here too."""

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        refuse_adapter_names(kwargs)
        compiling = torch.compiler.is_compiling()
        with split_once(self._states().values()) if compiling else generating_in_place(self.model):
            yield

    # ----- merging, summing, removing -----------------------------------------------------------------------------

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Write the deltas of adapters (default: the active ones) into the base parameters; see BaseTuner.

        Raises:
            ValueError: there is no such adapter; a torchao weight cannot be quantised anew; or, with `safe_merge`, a
                merged value is not finite. Nothing has been merged then.
        """
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
        """Restore the base parameters bitwise; see BaseTuner. An interrupt comes through when all are restored."""
        repeat_once(super().unmerge_adapter)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; see BaseTuner. An interrupt comes through when it is deleted.

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

    @torch.no_grad()
    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "linear",
    ) -> None:
        """Add an adapter whose delta is the weighted sum of those of `adapters`.

        Its largest entries make up its mask, the others are inactive.

        Args:
            adapters: names of adapters with the same targets.
            weights: one factor each.
            adapter_name: name of the new adapter; its config is that of the first of `adapters`.
            combination_type: "linear" is the only one.

        Raises:
            ValueError: an unknown or doubled name, other targets, a wrong number of weights, or a weight or sum that is
                not finite. Nothing was added then.
        """
        check_combination(self._states(), adapters, weights, adapter_name, combination_type)
        total = weighted_sum([self.delta(name) for name in adapters], weights)
        try:
            self.peft_config[adapter_name] = copy.deepcopy(self.peft_config[adapters[0]])
            self.inject_adapter(self.model, adapter_name)
            install_sum(self._states()[adapter_name], total)
        except BaseException:
            repeat_once(lambda: discard(self.model, adapter_name))
            self.peft_config.pop(adapter_name, None)
            raise

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """With autocast_adapter_dtype=False the trainable values take the dtype of the base; float32 else."""
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        state = self._states().get(adapter_name)
        if state is not None and not autocast_adapter_dtype:
            dtypes = [
                tensor.dtype for tensor in self._base_parameters(state).values() if not has_quantized_storage(tensor)
            ]
            state.flat.data = state.flat.data.to(dtypes[0] if dtypes else torch.float32)
            state.drop_views()

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """The adapter's part of a state dict, without the trainable vector, whose values stand in the deltas.

        The config, which PEFT saves right after this, is told the shapes, so that every loader can allocate them.
        """
        state = cls._states_of(model)[adapter_name]
        lines = fingerprints(tuned_parameters(model, adapter_name))
        card = partial(write_card, metadata=CheckpointMetadata.of(state, lines))
        config.prepare_save(state.support_sizes, lines, after_save=card)
        selected = super()._get_adapter_state_dict(model, config, adapter_name, *args, **kwargs)
        return {key: tensor for key, tensor in selected.items() if not is_vector(key)}

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Map the keys of a checkpoint to those of the model, after all of it has been checked and installed.

        Raises:
            ValueError: the tensors are damaged or belong to another model. An adapter that was there before is
                unchanged then; one that was being added is taken out again.
        """
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        state = cls._states_of(model)[adapter_name]
        waiting = state.waiting
        try:
            install_from(model, state, remapped)
        except BaseException:
            if waiting:
                discard(model, adapter_name)
            raise
        return remapped


def tuner_of(model: nn.Module) -> FishDipModel:
    """The tuner, with `update_mask`, `mask`, `delta` and so on, of any model that has Fish-Dip adapters.

    Of a PeftModel it is `model.base_model`. transformers' `model.add_adapter(FishDipConfig(...))` and
    `model.load_adapter(...)`, like PEFT's `inject_adapter_in_model`, keep none; for these it is made anew.

    Raises:
        ValueError: there is no such adapter in the model.
    """
    for module in model.modules():
        if isinstance(module, FishDipModel):
            return module
    for module in [model, *model.modules()]:
        configs = module.__dict__.get("peft_config")
        if isinstance(configs, dict) and any(isinstance(layer, FishDipLayer) for layer in module.modules()):
            return AttachedTuner(module)
    raise ValueError(
        f"there is no Fish-Dip adapter in {type(model).__name__}; add one with get_peft_model(model, "
        "FishDipConfig(...)), or with transformers' model.add_adapter(FishDipConfig(...))."
    )


class AttachedTuner(FishDipModel):
    """A tuner over a model that has its adapters already. It holds nothing of its own: the model and its layers do."""

    def __init__(self, model: nn.Module) -> None:
        nn.Module.__init__(self)
        self.model = model
        self.targeted_module_names = [
            name for name, module in model.named_modules() if isinstance(module, FishDipLayer)
        ]
        self.targeted_parameter_names = []

    @property
    def active_adapter(self) -> Any:
        """As the layers have it, which transformers' `set_adapter` tells alone."""
        return next(self._layers()).active_adapter

    @active_adapter.setter
    def active_adapter(self, value: Any) -> None:
        """BaseTuner notes here what it has told the layers."""
