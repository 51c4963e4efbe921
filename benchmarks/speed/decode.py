"""Greedy decoding with adapters, merged and not; saving and loading them, and the size of their files."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from peft_fishdip import FishDipConfig

from .clock import seconds
from .contestants import Workbench, adapted
from .settings import Settings
from .spec import Spec

SAVED = ("fishdip-uniform", "lora", "shira", "supertuning", "full")


def measure_decode(settings: Settings) -> dict[str, Any]:
    bench = Workbench(settings)
    return {"parameters": bench.size, "decode": decoding(bench), "files": files(bench)}


@torch.no_grad()
def decoding(bench: Workbench) -> dict[str, Any]:
    """Seconds per token of greedy decoding, the encoder's pass included, in turns; and of merging and unmerging.

    The Fish-Dip adapter has random deltas on a uniform mask.
    """
    own = bench.settings
    batch = bench.batch(own.decode_batch)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    ours = adapted(bench.shared(), FishDipConfig(density=own.density, init_weights=False, seed=own.seed)).eval()
    low_rank = bench.make(Spec("lora")).model.eval()
    base = bench.shared()
    tokens: dict[str, Any] = {}
    merging: dict[str, list[float]] = {"merge": [], "unmerge": []}

    def generate(name: str, model: Any) -> float:
        def work() -> None:
            tokens[name] = model.generate(
                **inputs, do_sample=False, num_beams=1, max_new_tokens=own.new_tokens, min_new_tokens=own.new_tokens
            )

        return seconds(work, bench.device) / own.new_tokens

    def merged() -> float:
        merging["merge"].append(seconds(ours.merge_adapter, bench.device))
        try:
            return generate("fishdip_merged", ours)
        finally:
            merging["unmerge"].append(seconds(ours.unmerge_adapter, bench.device))

    turns: dict[str, Callable[[], float]] = {
        "base": lambda: generate("base", base),
        "lora": lambda: generate("lora", low_rank),
        "fishdip": lambda: generate("fishdip", ours),
        "fishdip_merged": merged,
    }
    result: dict[str, Any] = {name: {"seconds_per_token": []} for name in turns}
    order, names = random.Random(own.seed), list(turns)
    for number in range(own.warmup + own.rounds):
        order.shuffle(names)
        for name in names:
            spent = turns[name]()
            if number >= own.warmup:
                result[name]["seconds_per_token"].append(spent)
    result["fishdip_merged"]["same_tokens"] = torch.equal(tokens["fishdip"], tokens["fishdip_merged"])
    for name, values in merging.items():
        result["fishdip_merged"][f"{name}_seconds"] = values[own.warmup :]
    return result


def files(bench: Workbench) -> dict[str, Any]:
    """Seconds to save and to load each adapter, and the bytes of its files; full fine-tuning saves the model."""
    own = bench.settings
    result: dict[str, Any] = {}
    for method in SAVED:
        head, _, pattern = method.partition("-")
        spec = Spec(head, pattern, 0.0 if head in ("lora", "full") else own.density)
        contestant = bench.make(spec)
        record: dict[str, Any] = {"save_seconds": [], "load_seconds": [], "bytes": 0, "trainable": contestant.trainable}
        result[spec.name] = record
        for number in range(own.rounds + 1):
            with tempfile.TemporaryDirectory() as folder:
                saving, loading = save_and_load(contestant.model, folder, bench, adapter=head != "full")
                record["bytes"] = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            if number:  # the first round does not count
                record["save_seconds"].append(saving)
                record["load_seconds"].append(loading)
    return result


def save_and_load(model: Any, folder: str, bench: Workbench, adapter: bool) -> tuple[float, float]:
    options: Any = {"save_embedding_layers": False} if adapter else {}
    saving = seconds(lambda: model.save_pretrained(folder, **options), bench.device)
    if adapter:
        base = bench.shared()
        loading = seconds(lambda: PeftModel.from_pretrained(base, folder), bench.device)
    else:
        started = time.perf_counter()
        type(model).from_pretrained(folder, dtype=bench.settings.torch_dtype, local_files_only=True).to(bench.device)
        loading = time.perf_counter() - started
    return saving, loading
