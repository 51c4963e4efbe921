"""Mask updates in a transformers.Trainer."""

from __future__ import annotations

import warnings
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from .adapter.mask_record import MaskUpdate
from .adapter.state import AdapterState
from .importance.examples import Collator, checked_examples, is_indexed
from .importance.losses import LossFn
from .importance.recent import RecentExamples
from .model import FishDipModel, tuner_of
from .schedule import update_is_due
from .tuner.arguments import check_functions, check_names

FIRST_LOOK = 250
"""Examples that are scanned for the first mask if later masks reuse the losses of training."""
_claims: WeakKeyDictionary[AdapterState, ref[TrainerState]] = WeakKeyDictionary()
"""The training in which a callback last took over the updates of an adapter."""


class FishDipCallback(TrainerCallback, ExportableState):
    """Updates the mask in a Trainer before the first step, and then as `update_interval` says.

    A Trainer needs no callback: the mask updates itself, by the losses of training. This one looks at all examples
    before each update, as the paper does, and logs the updates.

    The figures of each update are added to `trainer.state.log_history` as `mask_...`, and to the next log.

    Args:
        dataset: the examples to choose from; by default the Trainer's training set.
        data_collator: from a list of feature dicts to a batch; by default the Trainer's.
        loss_fn: from model and batch to the losses of its examples, shape (batch,); see `FishDipModel.update_mask`.
        reuse_training_losses: for large training sets: choose examples by the losses that training has computed since
            the last update, instead of a scan. The first update scans 250 examples, drawn with the config's seed.
        adapter_name: the adapter whose mask to update; by default the active one. Needed if several are active, as when
            one is trained on top of another.

    Raises:
        TypeError: an argument of another type.
        ValueError: a dataset without numbered examples, where training losses are reused.

    Attributes:
        updates: the records of all updates by this object, oldest first.
    """

    def __init__(
        self,
        dataset: Any = None,
        data_collator: Collator | None = None,
        loss_fn: LossFn | None = None,
        *,
        reuse_training_losses: bool = False,
        adapter_name: str | None = None,
    ) -> None:
        check_functions(data_collator=data_collator, loss_fn=loss_fn)
        if not isinstance(reuse_training_losses, bool):
            raise TypeError(f"reuse_training_losses={reuse_training_losses!r} must be True or False.")
        if adapter_name is not None:
            check_names(adapter_name)
        if dataset is not None and not is_indexed(checked_examples(dataset, "dataset")) and reuse_training_losses:
            raise ValueError(
                "reuse_training_losses=True draws the examples of its first look by their numbers, and the dataset, a "
                f"{type(dataset).__name__}, is a stream without any; give a Dataset or a list."
            )
        self.dataset = dataset
        self.data_collator = data_collator
        self.loss_fn = loss_fn
        self.reuse_training_losses = reuse_training_losses
        self.adapter_name = adapter_name
        self.given = [name for name in ("dataset", "data_collator", "loss_fn") if getattr(self, name) is not None]
        self.updates: list[MaskUpdate] = []
        self._figures: dict[str, float] = {}
        self._tuner: FishDipModel | None = None
        self._recent: RecentExamples | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Find the adapter, and record training losses from now on if they are reused.

        Raises:
            ValueError: there is no Fish-Dip adapter; several are active and none is named; load_best_model_at_end with
                `model.add_adapter`, which the Trainer does not support; or the Trainer has restored this callback from
                a checkpoint, which does not contain the dataset, collator or loss function; or another callback updates
                the same adapter.
        """
        lost = [name for name in self.given if getattr(self, name) is None]
        if lost:
            raise ValueError(
                "restore_callback_states_from_checkpoint=True makes a new FishDipCallback, without the "
                f"{' and '.join(lost)} that the first one was given; leave it False: this callback restores itself."
            )
        self._tuner = tuner_of(kwargs["model"])
        adapter = self._tuner._state(self.adapter_name)
        self._claim(adapter, state)
        interval = adapter.config.update_interval
        if isinstance(interval, int) and 0 < state.max_steps <= interval:
            warnings.warn(
                f"update_interval={interval}, but training has {state.max_steps} steps, so that the first mask stays; "
                "give a shorter interval, or update_interval='auto'.",
                UserWarning,
                stacklevel=2,
            )
        if args.load_best_model_at_end and isinstance(kwargs["model"], PreTrainedModel):
            raise ValueError(
                "load_best_model_at_end: the Trainer can save the adapter of a model.add_adapter(...), but not load it "
                "again; train get_peft_model(model, FishDipConfig(...)), or load the best checkpoint yourself."
            )
        if self.reuse_training_losses:
            self._recent = self._tuner.recent_examples(self.loss_fn, self.adapter_name)

    def _claim(self, adapter: AdapterState, training: TrainerState) -> None:
        """Take over the updates of an adapter; raises ValueError if that has been done in the same training."""
        earlier = _claims.get(adapter, lambda: None)()
        if earlier is training:
            raise ValueError(
                f"two FishDipCallbacks update adapter {adapter.adapter_name!r}, and each would undo the other's mask; "
                "give the Trainer one for each adapter, with adapter_name if there are several."
            )
        _claims[adapter] = ref(training)
        adapter.stop_driving()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Update the mask if it is due."""
        tuner = self._tuner or tuner_of(kwargs["model"])
        config = tuner._state(self.adapter_name).config
        if not update_is_due(config.update_interval, state.global_step):
            return
        loader = kwargs["train_dataloader"]
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
            update = tuner.update_mask(
                self._examples(loader, config.seed),
                data_collator=self.data_collator or loader.collate_fn,
                optimizer=kwargs["optimizer"],
                batch_size=args.per_device_eval_batch_size,
                loss_fn=self.loss_fn,
                step=state.global_step,
                adapter_name=self.adapter_name,
            )
        self.updates.append(update)
        self._figures = update.figures()
        state.log_history.append({**self._figures, "epoch": state.epoch, "step": state.global_step})

    def _examples(self, loader: Any, seed: int) -> Any:
        """The examples for the next update: recorded ones, the dataset, or for a first look a random part of it."""
        if self._recent is not None and len(self._recent):
            return self._recent
        dataset = self.dataset if self.dataset is not None else loader.dataset
        if self.dataset is None and not is_indexed(dataset):
            raise ValueError(
                "the Trainer's training set is a stream, without numbered examples; give FishDipCallback(dataset=...) "
                "the examples to choose from."
            )
        if not self.reuse_training_losses or len(dataset) <= FIRST_LOOK:
            return dataset
        if self._recent is not None and self.updates:
            unlabelled = (
                "the model was called without labels, as with label_smoothing_factor or a compute_loss of your own"
            )
            raise ValueError(
                "reuse_training_losses=True, but no training step has recorded losses that examples can be chosen by: "
                f"{self._recent.trouble or unlabelled}; leave it False."
            )
        generator = torch.Generator().manual_seed(seed)
        return [
            dataset[i] for i in torch.randperm(len(dataset), generator=generator, device="cpu")[:FIRST_LOOK].tolist()
        ]

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Add the figures of the last update to a log of the training loss."""
        if logs is not None and "loss" in logs:
            logs.update(self._figures)
            self._figures = {}

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Release the model."""
        self._tuner = None
        if self._recent is not None:
            self._recent.close()
            self._recent = None

    def state(self) -> dict[str, Any]:
        """What the Trainer saves of this callback; the mask and number of updates are saved with the adapter."""
        own = {"reuse_training_losses": self.reuse_training_losses, "adapter_name": self.adapter_name}
        return {"args": own, "attributes": {"given": self.given}}
