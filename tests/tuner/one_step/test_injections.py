"""A failed injection leaves the base as it was and the name free, whatever fails and wherever it is interrupted."""

from __future__ import annotations

import copy
import itertools
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from peft.tuners import tuners_utils
from torch import Tensor, nn

import peft_fishdip
from peft_fishdip import FishDipConfig, tuner_of

from ...support.models import bert_classifier, bits, classifier_examples, padded
from .subjects import differing
from .test_failures import FailAt
from .test_interrupts import Interrupt

FILES = (str(Path(peft_fishdip.__file__).parent), tuners_utils.__file__)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
ATTRIBUTES = (
    "active_adapter",
    "_active_adapter",
    "_disable_adapters",
    "targeted_module_names",
    "generate",
)
IRRELEVANT = {"name_or_path", "_hf_peft_config_loaded"}  # the latter is an attribute of the class until it is set


def untied_classifier() -> Any:
    """With two Parameters over one memory."""
    base = bert_classifier()
    first, second = base.bert.encoder.layer
    second.output.dense.weight = nn.Parameter(first.output.dense.weight.detach())
    return base


def config(**settings: Any) -> FishDipConfig:
    return FishDipConfig(density=0.1, init_weights=False, modules_to_save=["classifier"], **settings)


def with_first(base: Any) -> Any:
    return get_peft_model(base, config(seed=1))


def with_first_of_transformers(base: Any) -> Any:
    base.add_adapter(config(seed=1), "first")
    return base


class Injection(NamedTuple):
    make: Callable[[], Any]
    run: Callable[[Any], Any]


INJECTIONS = {
    "get_peft_model": Injection(untied_classifier, lambda base: get_peft_model(base, config())),
    "get_peft_model, for a task": Injection(
        untied_classifier, lambda base: get_peft_model(base, config(task_type="SEQ_CLS"))
    ),
    "inject_adapter_in_model": Injection(untied_classifier, lambda base: inject_adapter_in_model(config(), base)),
    "add_adapter of transformers": Injection(untied_classifier, lambda base: base.add_adapter(config(), "new")),
    "add_adapter of PEFT": Injection(
        lambda: with_first(untied_classifier()), lambda model: model.add_adapter("new", config(seed=2))
    ),
    "add_adapter of PEFT, in half precision": Injection(
        lambda: with_first(untied_classifier().bfloat16()),
        lambda model: model.add_adapter("new", config(seed=2), autocast_adapter_dtype=False),
    ),
    "a second one of transformers": Injection(
        lambda: with_first_of_transformers(untied_classifier()), lambda base: base.add_adapter(config(seed=2), "new")
    ),
}


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that an injection may change: modules, parameters and their flags, hooks and other attributes."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found[f"module {name}"] = id(module)
        found[f"attributes of {name}"] = sorted(module.__dict__.keys() - IRRELEVANT)
        found[f"hooks of {name}"] = [len(getattr(module, hooks)) for hooks in HOOKS]
        for attribute in ATTRIBUTES:
            found[f"{attribute} of {name}"] = copy.copy(module.__dict__.get(attribute))
        found[f"adapters of {name}"] = getattr(module, "_hf_peft_config_loaded", None)
        configs = module.__dict__.get("peft_config")
        found[f"configs of {name}"] = list(configs) if isinstance(configs, dict) else None
        for leaf, parameter in module.named_parameters(recurse=False):
            found[f"parameter {name}.{leaf}"] = id(parameter)
            found[f"flag of {name}.{leaf}"] = parameter.requires_grad
            found[f"bits of {name}.{leaf}"] = bits(parameter)
    return found


def used(model: Any) -> dict[str, Tensor]:
    """What a model computes with its new adapter, and all tensors of it."""
    tuner = tuner_of(model)
    tuner.set_adapter("new" if "new" in tuner.peft_config else "default")
    model.eval()
    with torch.no_grad():
        found = {"logits": bits(model(**padded(classifier_examples(3))).logits)}
    return found | {key.replace("base_model.model.", ""): bits(tensor) for key, tensor in model.state_dict().items()}


def outcome(injection: Injection, model: Any) -> dict[str, Tensor]:
    """What an injection makes of a model."""
    injection.run(model)
    return used(model)


@contextmanager
def quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def has_begun(error: BaseException) -> bool:
    """Whether the package was entered; before that PEFT and transformers write down a config or a flag of their own."""
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(FILES[0])]
    return any(line != "try:" for line in lines)


def check_sweep(
    name: str, stop: Callable[[int], Any], numbers: Iterator[int], thorough: int, may_be_complete: bool = False
) -> int:
    """Stop at the numbers in turn, until an injection completes; try every `thorough`-th again. Returns how many."""
    injection = INJECTIONS[name]
    with quietly():
        expected = outcome(injection, injection.make())
        for count, n in enumerate(numbers):
            model = injection.make()
            before = state_of(model)
            try:
                with stop(n):
                    injection.run(model)
            except (MemoryError, KeyboardInterrupt) as error:
                if isinstance(error, KeyboardInterrupt) and not has_begun(error):
                    continue
                difference = differing(state_of(model), before)
                if may_be_complete and difference:
                    assert differing(used(model), expected) == [], (n, difference[:5])
                    continue
                assert difference == [], n
                if count % thorough == 0:
                    assert differing(outcome(injection, model), expected) == [], n
            else:
                return count
    raise AssertionError


@pytest.mark.parametrize("stride", [53, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("name", INJECTIONS)
def test_a_failure_of_any_tensor_operation(name: str, error: type[BaseException], stride: int) -> None:
    numbers = itertools.count(1, stride)
    assert check_sweep(name, lambda n: FailAt(n, error), numbers, thorough=10 if stride == 7 else 3)


@pytest.mark.parametrize("stride", [2999, pytest.param(97, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [name for name in INJECTIONS if "half" not in name])  # PEFT casts after it has added
def test_an_interrupt_between_any_lines(name: str, stride: int) -> None:
    numbers = itertools.count(1, stride)
    assert check_sweep(name, lambda k: Interrupt(k, FILES), numbers, 10 if stride == 97 else 3, may_be_complete=True)
