"""Greedy decoding with adapters, merged and unmerged; saving and loading them, and the size of their files."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from peft_fishdip import FishDipConfig

from .measure import in_turns, seconds
from .models import Workbench, adapted, num_parameters
from .settings import Method, Settings

COMPACT = ", compact"
"""What follows a method's name in the figures of its compact files."""
TENSORS = "adapter_model.safetensors"


def measure_decode(settings: Settings) -> dict[str, Any]:
    bench = Workbench(settings)
    ours = [Method("fishdip", "uniform", settings.density), Method("lora")]
    peers = [Method("shira", "", settings.density), Method("supertuning", "", settings.density), Method("full")]
    files = {name: record for method in (*ours, *peers) for name, record in files_of(bench, method).items()}
    return {"parameters": bench.size, "decode": decoding(bench), "files": files}


@torch.no_grad()
def decoding(bench: Workbench) -> dict[str, Any]:
    """Seconds per token of greedy decoding, the encoder's pass included; and of merging and unmerging.

    The Fish-Dip adapter has random deltas on a uniform mask.
    """
    own = bench.settings
    batch = bench.batch(bench.examples(own.decode_batch))
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    count: Any = {"do_sample": False, "max_new_tokens": own.new_tokens, "min_new_tokens": own.new_tokens}
    ours = adapted(bench.shared(), FishDipConfig(density=own.density, init_weights=False, seed=own.seed)).eval()
    tokens: dict[str, Any] = {}
    merging: dict[str, list[float]] = {"merge_seconds": [], "unmerge_seconds": []}

    def generate(name: str, model: Any) -> float:
        return seconds(lambda: tokens.update({name: model.generate(**inputs, **count)})) / own.new_tokens

    def merged() -> float:
        merging["merge_seconds"].append(seconds(ours.merge_adapter))
        try:
            return generate("fishdip_merged", ours)
        finally:
            merging["unmerge_seconds"].append(seconds(ours.unmerge_adapter))

    models = {"base": bench.shared(), "lora": bench.make(Method("lora")).model.eval(), "fishdip": ours}
    turns: dict[str, Any] = {name: partial(generate, name, model) for name, model in models.items()}
    spent, _ = in_turns({**turns, "fishdip_merged": merged}, own.warmup + own.rounds, own.seed)
    result: dict[str, Any] = {name: {"seconds_per_token": values[own.warmup :]} for name, values in spent.items()}
    result["fishdip_merged"] |= {name: values[own.warmup :] for name, values in merging.items()}
    result["fishdip_merged"]["same_tokens"] = torch.equal(tokens["fishdip"], tokens["fishdip_merged"])
    return result


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
