"""The ways to load an adapter as a new one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from torch import nn

from ...support.models import bert_classifier
from .trained import receiver


def load_as_a_model(folder: Path) -> tuple[nn.Module, Callable[[], Any]]:
    base = bert_classifier()
    return base, lambda: PeftModel.from_pretrained(base, str(folder))


def load_as_a_model_with_low_memory(folder: Path) -> tuple[nn.Module, Callable[[], Any]]:
    base = bert_classifier()
    return base, lambda: PeftModel.from_pretrained(base, str(folder), low_cpu_mem_usage=True)


def load_as_a_second_adapter(folder: Path) -> tuple[nn.Module, Callable[[], Any]]:
    model = receiver()

    def load() -> Any:
        model.load_adapter(str(folder), "second")
        model.set_adapter("second")
        return model

    return model, load


def load_as_a_second_adapter_with_low_memory(folder: Path) -> tuple[nn.Module, Callable[[], Any]]:
    model = receiver()

    def load() -> Any:
        model.load_adapter(str(folder), "second", low_cpu_mem_usage=True)
        model.set_adapter("second")
        return model

    return model, load


def load_by_transformers(folder: Path) -> tuple[nn.Module, Callable[[], Any]]:
    base = bert_classifier()

    def load() -> Any:
        base.load_adapter(str(folder))
        return base

    return base, load


def load_by_transformers_as_a_second_adapter(folder: Path) -> tuple[nn.Module, Callable[[], Any]]:
    base = bert_classifier()
    config = receiver().peft_config["default"]
    base.add_adapter(type(config)(density=0.05, init_weights=False, seed=8), "first")

    def load() -> Any:
        with pytest.warns(UserWarning, match="Already found a `peft_config` attribute"):  # by PEFT, of any second one
            base.load_adapter(str(folder), "second")
        base.set_adapter("second")
        return base

    return base, load


NEW = [
    load_as_a_model,
    load_as_a_model_with_low_memory,
    load_as_a_second_adapter,
    load_as_a_second_adapter_with_low_memory,
    load_by_transformers,
    load_by_transformers_as_a_second_adapter,
]
