"""Greedy decoding with adapters, merged and unmerged."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from peft_fishdip import FishDipConfig

from .measure import in_turns, seconds
from .models import Workbench, adapted
from .settings import Method, Settings


def measure_decode(settings: Settings) -> dict[str, Any]:
    bench = Workbench(settings)
    return {"parameters": bench.size, "decode": decoding(bench)}


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
