"""Adapters on disk: the size of their files, and how long it takes to save and to load them."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from .measure import seconds
from .models import Workbench, num_parameters
from .settings import Method, Settings

COMPACT = ", compact"
"""What follows a method's name in the figures of its compact files."""
TENSORS = "adapter_model.safetensors"


def measure_files(settings: Settings) -> dict[str, Any]:
    """The figures of all methods by the data type of the base."""
    kinds = [("fishdip", "uniform"), ("lora", ""), ("shira", ""), ("supertuning", ""), ("full", "")]
    methods = [Method(*kind, 0.0 if kind[0] in ("lora", "full") else settings.density) for kind in kinds]
    files: dict[str, dict[str, Any]] = {}
    for dtype in settings.file_dtypes:
        bench = Workbench(replace(settings, dtype=dtype))
        files[dtype] = {name: record for method in methods for name, record in files_of(bench, method).items()}
    return {"parameters": bench.size, "files": files}


def files_of(bench: Workbench, method: Method) -> dict[str, Any]:
    """Seconds to save and to load an adapter, and bytes of its files; full fine-tuning saves the whole model.

    Ours is saved in turns as ever and with compact=True, frozen and with random deltas.
    """
    made = bench.make(method)
    ways = {method.name: False, method.name + COMPACT: True} if method.kind == "fishdip" else {method.name: None}
    trainable = num_parameters(made.model, True)
    if method.kind == "fishdip":
        for parameter in made.model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.01)
        made.model.requires_grad_(False)
    records: dict[str, dict[str, Any]] = {
        name: {"save_seconds": [], "load_seconds": [], "trainable": trainable} for name in ways
    }
    for number in range(bench.settings.rounds + 1):
        for name, compact in ways.items():
            if compact is not None:
                made.model.peft_config["default"].compact = compact
            with tempfile.TemporaryDirectory() as folder:
                spent = saved_and_loaded(bench, made.model, method, folder)
                sizes = {path.name: path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()}
            records[name] |= {"bytes": sum(sizes.values()), "tensor_bytes": sizes.get(TENSORS)}
            for way, value in spent.items():
                records[name][way] += [value] if number else []  # the first round does not count
    return records


def saved_and_loaded(bench: Workbench, model: Any, method: Method, folder: str) -> dict[str, float]:
    if method.kind == "full":
        save = partial(model.save_pretrained, folder)
        dtype = bench.settings.torch_dtype
        load = partial(type(model).from_pretrained, folder, device_map={"": bench.device}, dtype=dtype)
    else:
        save = partial(model.save_pretrained, folder, save_embedding_layers=False)
        load = partial(PeftModel.from_pretrained, bench.shared(), folder)
    return {"save_seconds": seconds(save), "load_seconds": seconds(load)}
