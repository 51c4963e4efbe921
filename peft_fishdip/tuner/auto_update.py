"""Mask updates that follow from training alone, without a call or a callback."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..adapter.base_parameter import TunedParameter
from ..adapter.recording import is_recorded
from ..adapter.state import AdapterState
from ..criteria import criterion_of, is_known, of_one
from ..distributed import gather_lists, raise_on_all_ranks, sum_in_place
from ..importance.examples import max_to_pick
from ..importance.losses import LossFn, batch_size, default_loss_fn
from ..importance.recent import RecentExamples, is_labelled
from ..importance.replay import Replayed
from ..importance.rows import RowsError
from ..importance.scoring import Scores, scores_of
from ..layers.layer import layers_of, tuned_parameters
from ..optim.nested import inner_ones
from ..schedule import next_update, update_is_due
from .mask_update import change_mask, check_update, is_trained, scored_update, weights_of
from .steps import hear_steps_of, leave

LOOK_BACK = 250
"""Examples of training, the last ones before an update, that a mask is chosen by."""

ATTEMPTS = 5
"""Steps in a row that may give nothing to choose a mask by."""

STEPS = "fishdip_steps"
"""In a parameter group of an optimizer, and so in its state dict: steps that have trained each adapter."""


class AutoUpdate:
    """Updates the mask of one adapter before the first optimizer step, and then as `update_interval` says.

    It hears the losses of training from the model's own forward calls, and the steps from torch's optimizers. The first
    mask is chosen within the first step, by the examples heard until then; this step does not train the adapter. Later
    ones are chosen before the forward pass of the next step, by the last examples before it. If a call has no `labels`
    by name, or the model's losses are not known, the mask is chosen by the squared gradient of a whole step instead. So
    it is, from the second step on and with a warning, if the examples of a call cannot be computed one by one.

    Calls in evaluation mode are not heard, nor are those of the model's `forward` itself, as in sentence-transformers.
    The first step then tells that there is training, and the squared gradient of the second one chooses the mask; until
    then nothing is trained.

    Attributes:
        driving: False once somebody else updates the mask.
    """

    def __init__(self, model: nn.Module, state: AdapterState) -> None:
        self._model = ref(model)  # which keeps this object, by its hooks
        self.state = state
        self.driving = state.config.auto_update
        self.steps = 0
        self.next_due: int | None = 0 if state.num_updates == 0 else None  # until the optimizer is known
        self.attempts = 0
        self.trained = self.unheard = False  # since the last step; unheard: no call has told of it
        self.stopped = False  # listening to losses, because those of single examples cannot be computed
        self.rows = self.rows_per_step = 0
        self._optimizer: ReferenceType[Optimizer] | None = None
        self._stepping: ReferenceType[Optimizer] | None = None  # whose step has begun and is not counted
        self._outer: list[ReferenceType[Optimizer]] = []  # those that call one with the same vector, as Lookahead
        self._handles: list[Any] = []
        self._layer_handles: list[Any] = []
        self.recent: RecentExamples | None = None
        state.driver = self  # before the hooks: should making them be interrupted, it is closed with the adapter
        if self.driving:
            self._handles.append(model.register_forward_pre_hook(self._before_forward, with_kwargs=True))
            self.recent = self._recent_examples()
        hear_steps_of(self)

    def _recent_examples(self) -> RecentExamples | None:
        """A record of training's losses; None if those of single examples are not known."""
        config = self.state.config
        try:
            loss_fn = default_loss_fn(self.model, config.example_loss, checked=False)
        except ValueError:
            return None
        by_loss = config.sample_selection == "highest_loss"
        most = max_to_pick(config.num_samples)
        concerns = partial(is_trained, state=self.state)
        return RecentExamples(self.model, loss_fn, most, by_loss=by_loss, skip_not_finite=True, concerns=concerns)

    @property
    def model(self) -> nn.Module:
        model = self._model()
        assert model is not None
        return model

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_model": self.model, "_optimizer": None, "_stepping": None, "_outer": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _model=ref(state["_model"]))
        hear_steps_of(self)

    def stop(self) -> None:
        """Leave the updates to somebody else from now on."""
        self.driving = False
        if self._model() is not None:
            self._end_gradients()
        self._leave_layers()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self.recent is not None:
            self.recent.close()
            self.recent = None

    def close(self) -> None:
        """Release the model."""
        self.stop()
        leave(self)

    @property
    def due(self) -> bool:
        return self.next_due is not None and self.steps >= self.next_due

    # ----- forward calls -------------------------------------------------------------------------------------------

    def _before_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        # a compiled graph is only left where it trains
        if module.training and torch.is_grad_enabled() and not is_recorded():
            self._prepare(args, kwargs)

    @torch.compiler.disable(reason="a mask may be chosen before a step; auto_update=False leaves that to the caller")
    def _prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Choose the mask if it is due, or listen to what it can be chosen by."""
        if not self._trains():
            return
        self.trained = True
        listened = self.recent is not None
        labelled = listened and is_labelled(args, kwargs)
        if labelled:
            self.rows += batch_size(kwargs)
        if self.due and not self._gathers_gradients and not self._update_before_step():
            stopped = listened and self.recent is None  # the next step is the first whose layers are all heard
            if not stopped and (self.steps or not labelled) and not self._needs_no_examples:
                self._gather_gradients()
        if self.recent is not None:
            self.recent.listening = self.due or self._nearly_due()

    def _update_before_step(self) -> bool:
        """Choose the mask by the examples heard until the last step, if that is possible."""
        optimizer = None if self._optimizer is None else self._optimizer()
        if not self.steps or optimizer is None or self.stopped or not self._can_score():
            return False
        return self._update_by_losses(optimizer)

    def _trains(self) -> bool:
        """Whether this call trains the adapter."""
        return is_trained(self.model, self.state)

    def _nearly_due(self) -> bool:
        """Whether the examples of this step are among the last [`LOOK_BACK`] before the next update."""
        if self.next_due is None:
            return self._optimizer is None
        return (self.next_due - self.steps) * self.rows_per_step <= max(LOOK_BACK, self.rows_per_step)

    # ----- optimizer steps -----------------------------------------------------------------------------------------

    def before_step(self, optimizer: Optimizer, group: dict[str, Any]) -> None:
        """Choose the mask if it is due and has not been chosen before the forward pass.

        An optimizer within the step of another one has the moments that follow the mask, and decides from then on.
        """
        outer = None if self._stepping is None else self._stepping()
        within = outer is not None and outer is not optimizer
        if outer is not None and within and ref(outer) not in self._outer:
            self._outer.append(ref(outer))
        self._stepping = ref(optimizer)
        if not self.driving:
            return
        gradient = self.state.flat.grad
        if gradient is None or ref(optimizer) in self._outer:
            return
        if not self.trained:
            self.trained = self.unheard = bool(gradient.any())
        if not self.trained:
            return
        steps = group.get(STEPS, {}).get(self.state.adapter_name, 0)
        known = within or (self._optimizer is not None and self._optimizer() is optimizer)
        self._optimizer = ref(optimizer)
        if not known or steps != self.steps:
            self._begin_at(steps)
        if not self.due:
            return
        is_first = self.state.num_updates == 0
        updated = self._can_score() and self._update_by_losses(optimizer)
        if not updated and not self._update_by_gradients(optimizer):
            self.attempts += 1
            if self.attempts >= ATTEMPTS:
                self._give_up()
        if is_first and self.driving:
            self.state.flat.grad = None  # it belongs to the data-free mask

    def after_step(self, optimizer: Optimizer, group: dict[str, Any]) -> None:
        """Count a step, unless an optimizer within it has done so."""
        self._stepping = None
        if self.driving and self.trained:
            self._outer = [other for other in self._outer if other() not in (None, optimizer)]
            self.steps += 1
            group[STEPS] = {**group.get(STEPS, {}), self.state.adapter_name: self.steps}
            self.rows_per_step, self.rows = self.rows, 0
            if self.due and (self.unheard or self.stopped):
                self._gather_gradients_when_called()
            self.trained = self.unheard = False

    def around(self, optimizer: Optimizer) -> Optimizer:
        """The outermost optimizer that has been seen to step an optimizer; that one itself if there is none."""
        outer = [found for other in self._outer if (found := other()) is not None]
        return next((other for other in outer if optimizer in inner_ones(other)), optimizer)

    def _begin_at(self, steps: int) -> None:
        """Find when the next update is due, for an optimizer that has made so many steps."""
        self.steps = steps
        interval = self.state.config.update_interval
        self.next_due = next_update(interval, steps)
        if self.state.num_updates == 0 or (steps == 0 and self.next_due is not None):
            self.next_due = steps
        elif self.next_due is not None and update_is_due(interval, steps):
            # training goes on from a checkpoint: hear some examples first
            self.next_due = steps + max(1, (self.next_due - steps) // 10)

    # ----- updates -------------------------------------------------------------------------------------------------

    @property
    def _needs_no_examples(self) -> bool:
        importance = self.state.config.importance
        return (callable(importance) or is_known(importance)) and not criterion_of(importance).needs

    def _can_score(self) -> bool:
        """Whether no losses are needed for an update, or any process has heard one since the last update."""
        if self._needs_no_examples:
            return True
        heard = self.recent is not None and len(self.recent) > 0
        trouble = None if self.recent is None else self.recent.trouble
        found = gather_lists([(heard, trouble)])
        for _, reason in found:
            if reason is not None:
                self._stop_listening(reason)
                return False
        return any(one for one, _ in found)

    def _update_by_losses(self, optimizer: Optimizer) -> bool:
        """Choose the mask by the examples heard; False if their losses cannot be computed one by one."""
        started = time.perf_counter()
        self._end_gradients()  # of calls without labels in the same step
        checked = raise_on_all_ranks(lambda: check_update(self.model, self.state, optimizer, self.steps))
        loss_fn: LossFn | None = None
        if not self._needs_no_examples:
            loss_fn = Replayed(default_loss_fn(self.model, self.state.config.example_loss))
        try:
            with torch.autocast(self.state.flat.device.type, enabled=False):  # the caller's, around the forward pass
                scored_update(self.model, self.state, self.recent, loss_fn, checked, started, self.steps)
        except RowsError as error:
            trouble = None if self.recent is None else self.recent.trouble
            self._stop_listening(trouble or str(error))
            return False
        self._updated()
        return True

    def _stop_listening(self, reason: str) -> None:
        """Choose masks by the gradients of whole steps from now on, and say why."""
        self.stopped = True
        if self.recent is not None:
            self.recent.close()
            self.recent = None
        warnings.warn(
            f"the examples of a training step cannot be computed one by one: {reason}. The mask of adapter "
            f"{self.state.adapter_name!r} is chosen by the squared gradient of whole steps instead. To choose it by "
            "examples, train with FishDipCallback(), which collates them one by one, or call update_mask(dataset, "
            "data_collator=..., loss_fn=...).",
            UserWarning,
            stacklevel=2,
        )

    def _update_by_gradients(self, optimizer: Optimizer) -> bool:
        """Choose the mask by the gradients of this step; False if there are none, or one is not finite."""
        started = time.perf_counter()
        tuned = self._tuned()
        whole = {name: parameter.gradient for name, parameter in tuned.items() if parameter.gradient is not None}
        self._end_gradients()
        complete = len(whole) == len(tuned)
        if not all(gather_lists([complete])):
            return False
        sum_in_place(whole.values())
        if not all(bool(gradient.isfinite().all()) for gradient in whole.values()):
            return False
        if not any(bool(gradient.any()) for gradient in whole.values()):
            return False
        checked = raise_on_all_ranks(lambda: check_update(self.model, self.state, optimizer, self.steps))
        criterion, weights = criterion_of(self.state.config.importance), weights_of(self.model, self.state)
        averages: dict[str, dict[str, Tensor]] = {need: {} for need in criterion.needs}
        for name in weights.units:
            for need, average in of_one(whole.pop(name), criterion.needs).items():
                averages[need][name] = average
        scores = scores_of(criterion, weights, averages, count=0)
        change_mask(self.state, Scores(scores, (), ()), checked, started, self.steps, criterion.expected_power)
        self._updated()
        return True

    def _updated(self) -> None:
        """Find when the next update is due."""
        self.next_due = next_update(self.state.config.update_interval, self.steps)
        self.attempts = 0
        if self.recent is not None:
            self.recent.forget()

    def _give_up(self) -> None:
        """Say that no mask can be chosen, and try no more."""
        self.stop()
        self.state.warned = True
        warnings.warn(
            f"the mask of adapter {self.state.adapter_name!r} stays as it is: {ATTEMPTS} training steps gave neither "
            "losses to choose examples by (from calls with labels=... by name) nor finite gradients of the targeted "
            "parameters. Call model.base_model.update_mask(examples, loss_fn=..., optimizer=optimizer), or set_mask.",
            UserWarning,
            stacklevel=2,
        )

    def _tuned(self) -> dict[str, TunedParameter]:
        found = tuned_parameters(self.model, self.state.adapter_name)
        return {name: parameter for name, (parameter, _) in found.items()}

    @property
    def _gathers_gradients(self) -> bool:
        return any(parameter.gradient is not None for parameter in self._tuned().values())

    def _gather_gradients(self) -> None:
        """Have the backward passes until the next step find the gradients of all entries."""
        for delta in self.state.deltas:
            device = delta.active.device
            self._tuned()[delta.name].gradient = torch.zeros(delta.shape, dtype=torch.float32, device=device)

    def _gather_gradients_when_called(self) -> None:
        """Gather gradients from the next call of a layer on; a training that has ended needs no memory for them."""
        self._leave_layers()
        self._layer_handles = [layer.register_forward_pre_hook(self._before_layer) for layer in layers_of(self.model)]

    @torch.compiler.disable(reason="a mask may be chosen by the next step; auto_update=False leaves that to the caller")
    def _before_layer(self, *_: Any) -> None:
        if torch.is_grad_enabled() and self._trains():
            self._leave_layers()
            if self.due and not self._gathers_gradients:
                self._gather_gradients()

    def _leave_layers(self) -> None:
        for handle in self._layer_handles:
            handle.remove()
        self._layer_handles = []

    def _end_gradients(self) -> None:
        for parameter in self._tuned().values():
            parameter.gradient = None
