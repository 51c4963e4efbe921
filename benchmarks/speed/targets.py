"""The targets, and what was measured of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import truediv
from statistics import median
from typing import Any

from ..report.content import shown
from .measure import ratios
from .settings import Method
from .stored import COMPACT

Results = Mapping[str, Any]
"""By part the content of its JSON file."""
GB = 1e9
SHORT = 32
"""Most tokens of a short example."""


@dataclass(frozen=True)
class Finding:
    """One target beside what was measured of it, in rounds or processes; no value if it was not measured."""

    target: str
    limit: str
    values: Sequence[float] = ()
    most: float | None = None
    least: float | None = None
    digits: int = 3

    @property
    def measured(self) -> str:
        if not self.values:
            return "not measured"
        middle, low, high = (shown(f(self.values), self.digits) for f in (median, min, max))
        return middle if len(self.values) == 1 else f"{middle} ({low} to {high}, {len(self.values)}x)"

    @property
    def verdict(self) -> str:
        if not self.values or self.most is self.least is None:
            return "no target" if self.values else "not measured"
        for limit, sign in ((self.most, 1), (self.least, -1)):
            if limit is not None and (median(self.values) - limit) * sign > 0:
                return f"missed by {shown(100 * abs(median(self.values) / limit - 1))} %"
        return "met"


def findings(results: Results) -> list[Finding]:
    """All targets for the device that was measured."""
    gpu = any(part["settings"]["device"] != "cpu" for part in results.values())
    return [finding for rule in RULES for finding in rule(results, gpu)]


def ours(results: Results, part: str) -> list[Method]:
    """Fish-Dip's methods at the density of the targets."""
    found = map(Method.parse, results.get(part, {}).get("contestants", ()))
    return [x for x in found if x.kind == "fishdip" and x.density == results[part]["settings"]["density"]]


def steps(results: Results, gpu: bool) -> Iterator[Finding]:
    records = results.get("steps", {}).get("contestants", {})
    seconds = {name: record["seconds"] for name, record in records.items() if not record["error"]}
    for other, most in {"lora": 1.10 if gpu else 1.05, "full": 0.80 if gpu else 0.55}.items():
        measured = {f", {method.pattern} mask": seconds.get(method.name) for method in ours(results, "steps")}
        for mask, mine in (measured or {"": None}).items():
            values = ratios(mine, seconds[other]) if mine and other in seconds else ()
            yield Finding(f"step{mask}, to {other}", f"at most {most:.2f} x", values, most)


def memory_values(results: Results, name: str, figure: str) -> list[float]:
    record = results.get("memory", {}).get("contestants", {}).get(name, {"processes": []})
    return [process[figure] for process in record["processes"]]


def to_median(values: Sequence[float], others: Sequence[float], compare: Callable[..., float]) -> list[float]:
    """Each value compared with the median of the others, which were measured in other processes."""
    return [compare(value, median(others)) for value in values] if others else []


def memory(results: Results, gpu: bool) -> Iterator[Finding]:
    for method in ours(results, "memory") or [Method("fishdip", "uniform", 0.01)]:
        mask, peak = f"{method.pattern} mask", memory_values(results, method.name, "peak")
        if gpu:
            more = to_median(peak, memory_values(results, "frozen", "peak"), lambda a, b: (a - b) / GB)
            yield Finding(f"memory peak of steps beyond the frozen model's, {mask}", "at most 0.25 GB", more, 0.25)
        else:
            to_lora = to_median(peak, memory_values(results, "lora", "peak"), truediv)
            yield Finding(f"memory peak of steps, {mask}, to lora", "at most 1.05 x", to_lora, 1.05)
        saved, floor = (memory_values(results, name, "saved") for name in (method.name, "frozen"))
        to_floor = to_median(saved, floor, truediv)
        yield Finding(f"saved for backward, {mask}, to frozen", "at most 1.05 x", to_floor, 1.05, digits=4)


def decode(results: Results, gpu: bool) -> Iterator[Finding]:
    spent = {name: x["seconds_per_token"] for name, x in results.get("decode", {}).get("decode", {}).items()}
    unmerged, merged = (ratios(spent[name], spent["base"]) if spent else () for name in ("fishdip", "fishdip_merged"))
    yield Finding("decoding unmerged, to base", "at most 1.10 x", unmerged, 1.10)
    yield Finding("decoding merged, to base", "= 1 x, within 2 %", merged, 1.02)


def compact_files(results: Results, gpu: bool) -> Iterator[Finding]:
    """Size of our compact file, names included, and its times to those of the usual one."""
    limits, found = {"float32": 5.1, "bfloat16": 3.1}, results.get("files", {}).get("files", {})
    for dtype, records in (found or {dtype: {} for dtype in limits}).items():
        compact = next((name for name in records if name.endswith(COMPACT)), None)
        ours, usual = (records[compact], records[compact.removesuffix(COMPACT)]) if compact else ({}, {})
        sizes = [ours["tensor_bytes"] / ours["trainable"]] if ours else []
        yield Finding(f"compact file, {dtype}, bytes per entry", f"at most {limits[dtype]:g}", sizes, limits[dtype])
        for way in ("save", "load"):
            values = ratios(ours[f"{way}_seconds"], usual[f"{way}_seconds"]) if ours else ()
            yield Finding(f"compact file, {dtype}, time to {way} it, to the usual one", "at most 1.30 x", values, 1.3)


def update(results: Results, gpu: bool) -> Iterator[Finding]:
    part = results.get("update", {"parameters": 1, "split": {}, "selection": {}, "fisher": ()})
    split, selection, size = part["split"], part["selection"], part["parameters"]
    what = f"update of {split['examples']} examples" if split else "update"
    share = [100 * value for value in split.get("share", ())]
    yield Finding(f"{what}, share of {split.get('interval', 100)} steps", "at most 5 %", share, 5.0)
    auto = part.get("auto", {})
    share = [100 * value for value in auto.get("share", ())]
    yield Finding("an update by itself, with what it hears, share of steps", "at most 2 %", share, 2.0)
    times = ratios(selection["ours"]["seconds"], selection["topk"]["seconds"]) if selection else ()
    yield Finding("selection, time to cat + topk", "at most 0.1 x", times, 0.1)
    extra = [count / selection["parameters"] for count in selection["ours"]["bytes"]] if selection else ()
    yield Finding("selection, extra bytes per parameter", "at most 1.2", extra, 1.2)
    for record in part["fisher"]:
        length, least = record["length"], 2.0 if record["length"] <= SHORT else None
        what = f"Fisher of {part['settings']['fisher_examples']} examples of {length} + {length} tokens"
        faster, limit = ratios(record["one_by_one"], record["ours"]), "at least 2 x" if least else "none, not short"
        yield Finding(f"{what}, times as fast as one by one", limit, faster, least=least)
        yield Finding(f"{what}, relative difference", "at most 1e-5", [record["norm_difference"]], 1e-5)
    if gpu:
        activations, most = memory_values(results, "frozen", "activations"), 4 + 0.25 * GB / size
        growth = to_median(split.get("update_bytes", ()), activations, lambda a, b: (a - b) / size)
        what = "memory peak of an update beyond weights and activations, bytes per parameter"
        yield Finding(what, f"at most {most:.3g}", growth, most)


def scale(results: Results, gpu: bool) -> Iterator[Finding]:
    part = results.get("scale", {"sizes": []})
    for figure, ratio in linearity(part):
        yield Finding(figure, "0.90 to 1.10 x", [ratio], 1.10, 0.90)
    if not measured_sizes(part):
        yield Finding("cost per parameter to the smallest model's", "0.90 to 1.10 x")
    size = results.get("largest", {}).get("size", {})
    most = [size["update"]["most_bytes"] / GB] if "update" in size else ()
    what = size_name(size) if size else "large, bfloat16"
    yield Finding(f"{what}: memory of steps and updates", "at most 24 GB", most, 24.0)


def compilation(results: Results, gpu: bool) -> Iterator[Finding]:
    records = results.get("compilation", {}).get("contestants", {"fishdip-uniform@0.01": {"error": "not measured"}})
    for record in [record for name, record in records.items() if Method.parse(name).kind == "fishdip"]:
        values = () if record["error"] else ratios(record["compiled"], record["eager"])
        yield Finding("step under torch.compile, to eager", "at most 1 x, within 2 %", values, 1.02)


def causal(results: Results, gpu: bool) -> Iterator[Finding]:
    part = results.get("causal", {"seconds": {}})
    spent, what = part["seconds"], "decoder-only, step"
    pairs = (("to one with all logits", "fishdip", "all_logits", 0.5), ("under autocast, to lora", *AUTOCAST, 1.1))
    for title, mine, other, most in pairs:
        values = ratios(spent[mine], spent[other]) if spent else ()
        yield Finding(f"{what} {title}", f"at most {most:.2f} x", values, most)
    share = [100 * update_share(part)] if spent else ()
    yield Finding("decoder-only, share of updates in a short training", "at most 10 %", share, 10.0)


AUTOCAST = ("fishdip, autocast", "lora, autocast")
RULES = (steps, memory, decode, compact_files, update, causal, scale, compilation)


def update_share(part: Mapping[str, Any]) -> float:
    """The share of its mask updates in the time of a training."""
    training = part["training"]
    return float(sum(training["updates"].values()) / training["seconds"])


def measured_sizes(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [size for size in part["sizes"] if "steps" in size]


def size_name(size: Mapping[str, Any]) -> str:
    return f"{size['geometry']}, {size['parameters'] / 1e6:.3g} M, {size['dtype']}"


def costs(size: Mapping[str, Any]) -> dict[str, float]:
    """Median seconds of Fish-Dip's update and, if it was measured, of its step."""
    result = {"update": median(size["update"]["update_seconds"])}
    for name, record in size["steps"]["contestants"].items():
        if Method.parse(name).kind == "fishdip" and record["seconds"]:
            result["step"] = median(record["seconds"])
    return result


def linearity(part: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Costs per parameter relative to those of the smallest model of the same data type that is large enough."""
    first: dict[str, Any] = {}
    for size in sorted(measured_sizes(part), key=lambda size: size["parameters"]):
        if size["parameters"] < part["settings"]["linear_from"]:
            continue
        base = first.setdefault(size["dtype"], size)
        for what in [what for what in costs(size) if size is not base and what in costs(base)]:
            ratio = costs(size)[what] / size["parameters"] / (costs(base)[what] / base["parameters"])
            yield f"{what} per parameter, {size_name(size)}, to {size_name(base)}", ratio
