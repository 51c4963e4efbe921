"""Tiny models with Houlsby adapters or Compacter, whose weights are fixed, and a batch for them."""

import pytest
import torch
from peft import get_peft_model

from benchmarks.methods import CompacterConfig, HoulsbyConfig
from benchmarks.methods.bottleneck.layer import BottleneckLayer

from .. import tiny
from .fixed_weights import GEOMETRY, INPUT_IDS, LABELS, fixed

METHODS = pytest.mark.parametrize("config_class", [HoulsbyConfig, CompacterConfig])


def tiny_t5(**changes):
    model = tiny.t5(**{**GEOMETRY, "dropout_rate": 0.0, **changes})
    fill(model)
    return model.eval()


@torch.no_grad()
def fill(model, adapter_name="default", salt=""):
    """Give all parameters of the base, and those of the adapter, their fixed values."""
    for name, parameter in model.named_parameters():
        name = name.removeprefix("base_model.model.")
        if ".dropout." not in name:
            parameter.copy_(fixed(name, parameter.shape))
        elif adapter_name in name.split("."):
            parameter.copy_(fixed(common_name(name, adapter_name) + salt, parameter.shape))


def common_name(name, adapter_name="default"):
    """'encoder.block.0.layer.0.dropout.houlsby_down.default.weight' -> 'encoder.block.0.layer.0.down.weight'"""
    if "compacter_rule" in name:
        return "rule"
    for method in ("houlsby", "compacter"):
        name = name.replace(f"dropout.{method}_", "")
    return name.replace(f".{adapter_name}.", ".")


def filled(config, **changes):
    model = get_peft_model(tiny_t5(**changes), config)
    fill(model)
    return model.eval()


def batch():
    input_ids = torch.tensor(INPUT_IDS)
    return {"input_ids": input_ids, "attention_mask": input_ids.ne(0).long(), "labels": torch.tensor(LABELS)}


@torch.no_grad()
def logits(model):
    return model(**batch()).logits


def layers_of(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, BottleneckLayer)}


def layers(model):
    return list(layers_of(model).items())


def same_state(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def train(model, steps=20):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses
