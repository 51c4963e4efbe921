"""The targets, and what was measured of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .clock import Spread, ratios, shown
from .spec import Spec

Results = Mapping[str, Any]
"""Per part what its JSON file holds."""

GIGABYTE = 1e9
SHORT = 32
"""Tokens up to which an example is short."""


@dataclass(frozen=True)
class Finding:
    """One target beside what was measured."""

    target: str
    limit: str
    values: list[float] = field(default_factory=list)
    """One per round or process; none: not measured."""
    most: float | None = None
    least: float | None = None
    digits: int = 3

    @property
    def measured(self) -> str:
        if not self.values:
            return "not measured"
        spread = Spread.of(self.values)
        median, low, high = (shown(value, self.digits) for value in (spread.median, spread.low, spread.high))
        return median if spread.count == 1 else f"{median} ({low} to {high}, {spread.count}x)"

    @property
    def verdict(self) -> str:
        if not self.values:
            return "not measured"
        if self.most is None and self.least is None:
            return "no target"
        median = Spread.of(self.values).median
        for limit, excess in ((self.most, 1), (self.least, -1)):
            if limit is not None and (median - limit) * excess > 0:
                by = f"{shown(100 * abs(median / limit - 1))} %" if limit else shown(median)
                return f"missed by {by}"
        return "met"


def findings(results: Results) -> list[Finding]:
    """All targets for the device that was measured, in their order."""
    return [finding for rule in RULES for finding in rule(results)]


def on_gpu(results: Results) -> bool:
    return any(part["settings"]["device"] != "cpu" for part in results.values())


def ours(results: Results, part: str) -> list[Spec]:
    """Fish-Dip's contestants at the density of the targets (or that of an adapter's real mask), which did not fail."""
    if part not in results:
        return []
    specs = [Spec.parse(name) for name in results[part]["contestants"]]
    found = [spec for spec in specs if spec.method == "fishdip"]
    density, adapter = results[part]["settings"]["density"], results[part]["settings"]["adapter"]
    return [spec for spec in found if spec.density == density or (adapter and spec.pattern == "real")]


def step_ratios(results: Results, name: str, other: str) -> list[float]:
    contestants = results["steps"]["contestants"]
    if other not in contestants or contestants[name]["error"] or contestants[other]["error"]:
        return []
    return ratios(contestants[name]["seconds"], contestants[other]["seconds"])


def step(results: Results) -> Iterator[Finding]:
    limits = {"lora": 1.10, "full": 0.80} if on_gpu(results) else {"lora": 1.05, "full": 0.55}
    for other, most in limits.items():
        for spec in ours(results, "steps"):
            values = step_ratios(results, spec.name, other)
            yield Finding(f"step, {spec.pattern} mask, to {other}", f"at most {most:.2f} x", values, most)
        if not ours(results, "steps"):
            yield Finding(f"step, to {other}", f"at most {most:.2f} x")


def memory_values(results: Results, name: str, figure: str) -> list[float]:
    record = results.get("memory", {}).get("contestants", {}).get(name, {})
    return [process[figure] for process in record.get("processes", [])]


def medians(values: list[float], other: list[float], compare: Callable[[float, float], float]) -> list[float]:
    """Each value against the median of others, which came from other processes."""
    return [compare(value, Spread.of(other).median) for value in values] if other else []


def memory(results: Results) -> Iterator[Finding]:
    specs = ours(results, "memory") or [Spec("fishdip", "uniform", 0.01)]
    for spec in specs:
        name, mask = spec.name, f"{spec.pattern} mask"
        peak, saved = memory_values(results, name, "peak"), memory_values(results, name, "saved")
        if on_gpu(results):
            beyond = medians(peak, memory_values(results, "frozen", "peak"), lambda a, b: (a - b) / GIGABYTE)
            yield Finding(f"memory peak of steps beyond the frozen model's, {mask}", "at most 0.25 GB", beyond, 0.25)
        else:
            to_lora = medians(peak, memory_values(results, "lora", "peak"), lambda a, b: a / b)
            yield Finding(f"memory peak of steps, {mask}, to lora", "at most 1.05 x", to_lora, 1.05)
        to_frozen = medians(saved, memory_values(results, "frozen", "saved"), lambda a, b: a / b)
        yield Finding(f"saved for backward, {mask}, to frozen", "at most 1.05 x", to_frozen, 1.05, digits=4)


def decode(results: Results) -> Iterator[Finding]:
    part = results.get("decode", {}).get("decode", {})
    seconds = {name: record["seconds_per_token"] for name, record in part.items()}
    unmerged = ratios(seconds["fishdip"], seconds["base"]) if seconds else []
    merged = ratios(seconds["fishdip_merged"], seconds["base"]) if seconds else []
    yield Finding("decoding unmerged, to base", "at most 1.10 x", unmerged, 1.10)
    yield Finding("decoding merged, to base", "= 1 x, within 2 %", merged, 1.02)


def update(results: Results) -> Iterator[Finding]:
    part = results.get("update", {})
    split, selection = part.get("split", {}), part.get("selection", {})
    share = [100 * value for value in split.get("share", [])]
    what = f"update of {split['examples']} examples" if split else "update"
    yield Finding(f"{what}, share of {split.get('interval', 100)} steps", "at most 5 %", share, 5.0)
    times = ratios(selection["ours"]["seconds"], selection["topk"]["seconds"]) if selection else []
    extra = [size / selection["parameters"] for size in selection["ours"]["bytes"]] if selection else []
    yield Finding("selection, time to cat + topk", "at most 0.1 x", times, 0.1)
    yield Finding("selection, extra bytes per parameter", "at most 1.2", extra, 1.2)
    for record in part.get("fisher", []):
        faster = ratios(record["one_by_one"], record["ours"])
        count, length = part["settings"]["fisher_examples"], record["length"]
        what = f"Fisher of {count} examples of {length} + {length} tokens"
        if record["length"] <= SHORT:
            yield Finding(f"{what}, times as fast as one by one", "at least 2 x", faster, least=2.0)
        else:
            yield Finding(f"{what}, times as fast as one by one", "none, not short", faster)
        yield Finding(f"{what}, relative difference", "at most 1e-5", [record["norm_difference"]], 1e-5)
    if on_gpu(results):
        yield update_memory(results)


def update_memory(results: Results) -> Finding:
    """4 bytes per parameter and 0.25 GB beside weights and activations."""
    part = results.get("update", {})
    activations = memory_values(results, "frozen", "activations")
    size = part.get("parameters", 1)
    limit = 4 + 0.25 * GIGABYTE / size
    growth = medians(part.get("split", {}).get("update_bytes", []), activations, lambda a, b: (a - b) / size)
    title = "memory peak of an update beyond weights and activations, bytes per parameter"
    return Finding(title, f"at most {limit:.3g}", growth, limit)


def scale(results: Results) -> Iterator[Finding]:
    part = results.get("scale")
    sizes = measured_sizes(part) if part else []
    for figure, ratio in linearity(part) if part else []:
        yield Finding(figure, "0.90 to 1.10 x", [ratio], 1.10, 0.90)
    if not sizes:
        yield Finding("cost per parameter to the smallest model's", "0.90 to 1.10 x")


def largest(results: Results) -> Iterator[Finding]:
    size = results.get("largest", {}).get("size", {})
    most = [size["update"]["most_bytes"] / GIGABYTE] if "update" in size else []
    what = size_name(size) if size else "large, bfloat16"
    yield Finding(f"{what}: memory of steps and updates", "at most 24 GB", most, 24.0)


def measured_sizes(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [size for size in part["sizes"] if "steps" in size]


def size_name(size: Mapping[str, Any]) -> str:
    return f"{size['geometry']}, {size['parameters'] / 1e6:.3g} M, {size['dtype']}"


def costs(size: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of Fish-Dip's step and update."""
    result = {"update": Spread.of(size["update"]["update_seconds"]).median}
    for name, record in size["steps"]["contestants"].items():
        if Spec.parse(name).method == "fishdip" and record["seconds"]:
            result["step"] = Spread.of(record["seconds"]).median
    return result


def linearity(part: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Cost per parameter relative to the smallest model that is big enough, of the same dtype."""
    enough = [size for size in measured_sizes(part) if size["parameters"] >= part["settings"]["linear_from"]]
    first: dict[str, Any] = {}
    for size in sorted(enough, key=lambda size: size["parameters"]):
        base = first.setdefault(size["dtype"], size)
        if size is base:
            continue
        for what, cost in costs(size).items():
            if what in costs(base):
                ratio = cost / size["parameters"] / (costs(base)[what] / base["parameters"])
                yield f"{what} per parameter, {size_name(size)}, to {size_name(base)}", ratio


def compilation(results: Results) -> Iterator[Finding]:
    records = results.get("compilation", {}).get("contestants", {})
    for name, record in records.items() or [("fishdip-uniform@0.01", {"error": "not measured"})]:
        if Spec.parse(name).method == "fishdip":
            values = [] if record["error"] else ratios(record["compiled"], record["eager"])
            yield Finding("step under torch.compile, to eager", "at most 1 x, within 2 %", values, 1.02)


RULES: tuple[Callable[[Results], Iterator[Finding]], ...] = (step, memory, decode, update, scale, largest, compilation)
