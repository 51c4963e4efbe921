"""The tuner: chooses what to train."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .adapter.mask_record import MaskUpdate
from .adapter.state import AdapterState
from .config import is_count
from .criteria import criterion_of
from .distributed import raise_on_all_ranks
from .importance.examples import Collator, checked_examples, max_to_pick, padding_collator, source_of
from .importance.losses import LossFn, bfloat16_autocast, default_loss_fn
from .importance.recent import RecentExamples
from .importance.scoring import Scores
from .layers.layer import FishDipLayer
from .tuner.adapters import AdapterTuner
from .tuner.arguments import check_functions
from .tuner.mask_update import change_mask, check_update, is_trained, ordered_scores, scored_update


class FishDipModel(AdapterTuner):
    """Sample-aware dynamic sparse fine-tuning (Das et al., EMNLP 2023) of any torch model.

    It is `model.base_model` of the PeftModel that `get_peft_model(model, FishDipConfig(...))` returns. A training loop:

    ```python
    for batch in loader:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ```

    The first step chooses the mask by the examples of that step, and does not train the adapter; then the mask is
    chosen anew as `update_interval` says, by the last 250 examples before (see tuner/auto_update.py).
    `update_mask`, `set_mask` or a FishDipCallback take over from that.

    Base parameters are named as in the unwrapped model, such as `encoder.block.0.layer.0.SelfAttention.q.weight`; a
    tied parameter by its first name.
    """

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
        """Choose the K entries that matter most for the examples with the highest loss, and make them trainable.

        Scores all examples, takes those with the highest loss (Eq. 2 of the paper, or as the config says), computes
        their empirical Fisher information (Eq. 1) over all N targeted parameters at their effective values, selects
        the global top K, and carries deltas, gradients and optimizer state over. All changes are made in one step.
        Within torch.autocast in bfloat16, or after steps within it, losses are computed as training computes them.

        Args:
            examples: a Dataset or sequence of feature dicts (`input_ids`, `labels`, ...), an iterable of ready batches,
                or `recent_examples()`, which are not scanned, and dropped afterwards. With several processes, each
                passes the same Dataset, or batches of its own. Not looked at by an importance that needs none, such
                as "magnitude" or "lift".
            data_collator: makes a batch from a list of features; pads on the right if not given. Unused for batches.
            optimizer: the optimizer that trains the adapter; its state is carried over to the new mask.
            batch_size: examples per batch while losses are computed.
            loss_fn: computes the losses of a batch's examples, shape (batch,), from model and batch. Not needed for
                transformers' encoder-decoder models, causal and masked LMs, token and sequence classifiers.
            step: the optimizer step, for the record.
            adapter_name: whose mask to update; the active adapter if not given.

        Raises:
            ValueError: too few examples, one without a target, a loss, score or delta that is not finite, losses
                without gradients, an importance function that is not registered, fails or returns no scores, an
                optimizer that does not train the adapter, sharded weights, or merged or disabled adapters. Nothing has
                changed then.
            TypeError: examples that cannot be iterated over, or an argument of another type. Nothing has changed then.
            RuntimeError: another process raised such an error, or ended. Nothing has changed then.
        """
        started = time.perf_counter()
        if not is_count(batch_size):
            raise ValueError(f"batch_size={batch_size!r} must be an int, at least 1.")
        check_functions(data_collator=data_collator, loss_fn=loss_fn)
        state, optimizer = raise_on_all_ranks(lambda: self._checked(adapter_name, optimizer, step))
        pad_token_id = getattr(getattr(self.model, "config", None), "pad_token_id", None)
        collator = data_collator or padding_collator(pad_token_id)
        scan = state.config.sample_selection == "highest_loss"
        needed = bool(criterion_of(state.config.importance).needs)
        given = (lambda: checked_examples(examples)) if needed else (lambda: examples)
        source = raise_on_all_ranks(lambda: source_of(given(), collator, batch_size, scan))
        if loss_fn is None and needed:
            loss_fn = default_loss_fn(self.model, state.config.example_loss)
        state.stop_driving()
        device = state.flat.device.type
        source.autocast = source.autocast or bfloat16_autocast(device)
        with torch.autocast(device, enabled=False):  # backward passes, and all else, in the dtypes of their tensors
            return scored_update(self.model, state, source, loss_fn, optimizer, started, step)

    def recent_examples(self, loss_fn: LossFn | None = None, adapter_name: str | None = None) -> RecentExamples:
        """Record the losses of training from now on, to update the mask without a scan: see RecentExamples.

        Raises:
            ValueError: the config chooses examples in another way than by their loss, or the loss is not known.
        """
        check_functions(loss_fn=loss_fn)
        state = self._state(adapter_name)
        config = state.config
        if config.sample_selection != "highest_loss":
            raise ValueError(
                f"sample_selection={config.sample_selection!r} does not look at losses; give update_mask the examples."
            )
        loss_fn = loss_fn or default_loss_fn(self.model, config.example_loss, checked=False)
        state.stop_driving()
        concerns = partial(is_trained, state=state)
        return RecentExamples(self.model, loss_fn, max_to_pick(config.num_samples), concerns=concerns)

    def set_mask(
        self,
        scores: Mapping[str, Tensor],
        *,
        optimizer: Any = None,
        step: int | None = None,
        adapter_name: str | None = None,
    ) -> MaskUpdate:
        """Make the K entries with the highest scores the trainable ones; everything else is as in `update_mask`.

        Args:
            scores: a tensor of its shape for each targeted base parameter. Only the order of scores matters.
            optimizer, step, adapter_name: as in `update_mask`.

        Raises:
            ValueError: a parameter is missing, unknown or of another shape, or a score is not finite.
            TypeError: scores are no mapping.
            RuntimeError: another process raised such an error, or ended.
        """
        started = time.perf_counter()
        state, optimizer = raise_on_all_ranks(lambda: self._checked(adapter_name, optimizer, step))
        ordered = raise_on_all_ranks(lambda: ordered_scores(state, scores))
        state.stop_driving()
        remedy = "only their order counts, so scale them down, and replace NaN and infinity"
        return change_mask(state, Scores(ordered, (), ()), optimizer, started, step, expected_power=None, remedy=remedy)

    def last_update(self, adapter_name: str | None = None) -> MaskUpdate | None:
        """What the last mask update of this process scored and changed; None before the first one."""
        return self._state(adapter_name).last_update

    def mask(self, adapter_name: str | None = None) -> dict[str, Tensor]:
        """The flat positions that are trainable now, per targeted base parameter: int64 (active,), ascending, CPU."""
        return {delta.name: delta.active.cpu().clone() for delta in self._state(adapter_name).deltas}

    @torch.no_grad()
    def delta(self, adapter_name: str | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """The support of the delta to each targeted base parameter and the deltas there, on the CPU.

        Flat positions are int64 (support,), ascending; deltas are float32 (support,).
        """
        state = self._state(adapter_name)
        result = {}
        for delta, view in zip(state.deltas, state.flat.split(state.sizes), strict=True):
            positions, order = delta.support.sort()
            result[delta.name] = (positions.cpu(), delta.values(view)[order].cpu())
        return result

    def _checked(self, adapter_name: str | None, optimizer: Any, step: int | None) -> tuple[AdapterState, Any]:
        state = self._state(adapter_name)
        return state, check_update(self.model, state, optimizer, step)


def tuner_of(model: nn.Module) -> FishDipModel:
    """The tuner of any model with Fish-Dip adapters, with `update_mask`, `mask`, `delta` and so on.

    For a PeftModel it is `model.base_model`. transformers' `model.add_adapter(FishDipConfig(...))` and
    `model.load_adapter(...)`, like PEFT's `inject_adapter_in_model`, keep no tuner; for them a new one is made.

    Raises:
        ValueError: there is no such adapter in the model.
        TypeError: this is no model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} must be a torch model with a Fish-Dip adapter.")
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
    """A tuner of a model that has its adapters already. All state is in the model and its layers."""

    def __init__(self, model: nn.Module) -> None:
        nn.Module.__init__(self)
        self.model = model
        self.targeted_module_names = [name for name, part in model.named_modules() if isinstance(part, FishDipLayer)]
        self.targeted_parameter_names = []

    @property
    def active_adapter(self) -> Any:
        """The active adapters of the layers; transformers' `set_adapter` changes only these."""
        return next(self._layers()).active_adapter

    @active_adapter.setter
    def active_adapter(self, value: Any) -> None:
        """Ignored: BaseTuner sets it after it has set the layers' adapters."""
