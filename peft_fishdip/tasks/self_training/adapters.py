"""Teacher and student as adapters of one PeftModel, whose base they share."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

STUDENT = "self_training_student"


def adapter_of(model: Any) -> str:
    """The name of the active adapter.

    Raises:
        ValueError: the model has none, or several.
    """
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, dict) or not hasattr(model, "add_adapter") or not hasattr(model, "get_base_model"):
        raise ValueError(
            f"{type(model).__name__} has no PEFT adapter, and self-training trains nothing else; pass "
            "get_peft_model(model, FishDipConfig(task_type=task_type(model)))"
        )
    active = list(model.active_adapters)
    if len(active) != 1:
        raise ValueError(f"the active adapters are {active}; call model.set_adapter with the name of a single one")
    if STUDENT in configs:
        raise ValueError(f"the model has an adapter {STUDENT!r}; delete it, since this name is needed for students")
    if getattr(configs[active[0]], "inference_mode", False):
        raise ValueError(f"the adapter {active[0]!r} is not trainable; load it with is_trainable=True")
    return str(active[0])


def add_student(model: Any, config: Any) -> None:
    """Add a new adapter, and make it the active one."""
    model.add_adapter(STUDENT, copy.deepcopy(config))
    model.set_adapter(STUDENT)


def remove_student(model: Any, name: str) -> None:
    """Delete the student, if there is one, and make the adapter of this name the active one."""
    model.set_adapter(name)
    if STUDENT in model.peft_config:
        model.delete_adapter(STUDENT)


def replace_adapter(model: Any, name: str, config: Any, folder: Path) -> None:
    """Put a saved adapter in place of the one of this name, make it the active one, and delete the student."""
    device = next(model.parameters()).device
    if STUDENT not in model.peft_config:
        add_student(model, config)
    model.set_adapter(STUDENT)  # PEFT warns where an active adapter is deleted
    if name in model.peft_config:
        model.delete_adapter(name)
    trainable = not config.is_prompt_learning  # PEFT refuses to train virtual tokens that were loaded
    model.load_adapter(str(folder), name, is_trainable=trainable, torch_device=str(device))
    remove_student(model, name)
