"""What an experiment comes to on the model at hand: the adapter's targets and task type, or why it is not possible.

The experiments that come with the benchmarks were written for T5. On another model the names of modules are others, and
some methods do not exist there.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from peft_fishdip.tasks import Task, predict, task_type, to_features
from peft_fishdip.tasks.families import CAUSAL, SEQ2SEQ, SEQUENCES, TOKENS

from .experiment import ADAPTER, EXPERIMENTS, TASK_TYPES, Experiment
from .features import collator_for
from .pretrained import Base
from .settings import SettingsError, one_line

CLASSIFIERS = (TOKENS, SEQUENCES)
HEADS = ("classifier", "score")
"""Names of the modules on top of encoders that PEFT trains whole without being told."""
NO_CONTEXT = "an encoder writes no text, so solved examples in its context do not tell it what to do"
ONLY_T5 = "it is made for T5, whose sublayers it names"
NO_PREFIX = "PEFT's prefixes are keys and values of earlier tokens, which this encoder does not take"
REASONS = {
    **{("PREFIX_TUNING", kind): NO_PREFIX for kind in CLASSIFIERS},
    **{(method, kind): ONLY_T5 for method in ("HOULSBY", "COMPACTER", "FULL_PREFIX") for kind in TASK_TYPES},
    ("PROMPT_TUNING", TOKENS): "PEFT gives its virtual tokens no labels, so a classifier of tokens has no loss",
}
"""By PEFT type and task type, what an error of PEFT means; other errors speak for themselves."""


def impossible(experiments: Iterable[Experiment], base: Base, task: Task[Any], example: Any) -> dict[str, str]:
    """Why experiments cannot be done on a model, by title; those that can be done are left out.

    Each adapter is tried on a copy of the model; unless it is an encoder-decoder, an example goes through it.

    Raises:
        SettingsError: PEFT refuses an adapter that was written for models of this kind.
    """
    found = {}
    kind = task_type(base.model)
    for experiment in experiments:
        if experiment.adapter is None:
            if experiment.params.in_context_examples and kind in CLASSIFIERS:
                found[experiment.title] = NO_CONTEXT
            continue
        try:
            try_adapter(experiment, base, task, example)
        except SettingsError:
            raise
        except Exception as error:  # whatever a method raises for a value or a model that it cannot use
            if not is_foreign(experiment, kind):
                path = experiment.adapter / ADAPTER
                raise SettingsError(f"{path} does not fit the model: {one_line(error)}") from error
            config: Any = experiment.adapter_config()
            found[experiment.title] = REASONS.get((config.peft_type.value, kind)) or one_line(error)
    return found


def is_foreign(experiment: Experiment, kind: str) -> bool:
    """Whether an adapter may have been written for another kind of model: one of ours, or one of another task type."""
    assert experiment.adapter is not None
    if EXPERIMENTS in experiment.adapter.parents:
        return True
    return experiment.adapter_config().task_type not in (None, kind)


def try_adapter(experiment: Experiment, base: Base, task: Task[Any], example: Any) -> None:
    config, _ = adapted_config(experiment, base)
    kind, most = task_type(base.model), experiment.params.max_length
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # they come again in a run
        model = get_peft_model(copy.deepcopy(base.model), config)
        if kind == SEQ2SEQ:
            return
        features = to_features(
            task, base.tokenizer, [example], model=model, max_source_length=most, max_target_length=most
        )
        model(**collator_for(base.tokenizer, model)(features))
        options = {"max_new_tokens": 2} if kind == CAUSAL else {}
        predict(model, base.tokenizer, task, [example], max_source_length=most, progress=False, **options)


def adapted_config(experiment: Experiment, base: Base) -> tuple[PeftConfig, list[str]]:
    """The PEFT config of an experiment for a model, and what a reader must know of it.

    What the model has new, its classifier, is trained whole and is no target.
    """
    config: Any = experiment.adapter_config()
    kind = task_type(base.model)
    notes: list[str] = []
    if is_foreign(experiment, kind) and lacks_targets(config, base.model):
        names = ", ".join(sorted(config.target_modules))
        config.target_modules, chosen = other_targets(config, base)
        if hasattr(config, "feedforward_modules"):
            config.feedforward_modules = None if config.target_modules is None else []
        notes.append(f"the model has no modules {names}; targets are {chosen}")
    config.task_type = kind
    if getattr(config, "target_modules", None) == "all-linear" and base.new:
        config.target_modules = [name for name in names_of(base.model, is_linear) if name not in base.new]
    untold = [name for name in base.new if not name.split(".")[0].endswith(HEADS)]
    if untold and hasattr(config, "modules_to_save"):
        config.modules_to_save = [*(config.modules_to_save or []), *untold]
    return config, notes


def lacks_targets(config: Any, model: nn.Module) -> bool:
    """Whether the target modules are given by names, none of which the model has."""
    names = getattr(config, "target_modules", None)
    if not isinstance(names, (list, set, tuple)):
        return False
    ends = tuple(f".{name}" for name in names)
    return not any(f".{name}".endswith(ends) for name, _ in model.named_modules())


def other_targets(config: Any, base: Base) -> tuple[Any, str]:
    """Target modules for a model that lacks those of an experiment, and these in words: PEFT's own, if it has any."""
    method, model_type = config.peft_type.value, base.model.config.model_type
    if method == "IA3":
        known: Any = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    else:
        known = getattr(PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type], "target_module_mapping", {})
    if own := known.get(model_type):
        return None, f"PEFT's own for {model_type}: {own if isinstance(own, str) else ', '.join(own)}"
    if method == "LN_TUNING":
        return [name for name in names_of(base.model, is_norm) if name not in base.new], "all norms"
    return "all-linear", "all linear layers"


def names_of(model: nn.Module, fits: Callable[[nn.Module], bool]) -> list[str]:
    return [name for name, module in model.named_modules() if fits(module)]


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def is_norm(module: nn.Module) -> bool:
    return type(module).__name__.lower().endswith("norm") and isinstance(getattr(module, "weight", None), nn.Parameter)
