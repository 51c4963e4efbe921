"""Tables and pictures from the JSON files of what was measured; the same files give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from ..machine import machine_in_words
from ..report import write_files
from ..report.content import Cell, Gallery, Picture, Section, Table, shown, table
from ..report.style import draw_lines, looks
from ..results import short_revision
from ..settings import SettingsError, read_json
from .measure import ratios
from .settings import Method
from .targets import Results, costs, findings, linearity, measured_sizes, size_name, update_share

Part = Mapping[str, Any]
STYLES: dict[str, Any] = {
    "uniform": {"dashes": "-"},
    "clustered": {"dashes": (0, (5, 1.5))},
    "real": {"dashes": (0, (1.5, 1.2))},
    "supertuning": {"marker": "s"},
    "masked": {"marker": "h"},
}


def write_report(folder: Path) -> Path:
    """Write report.md and pictures/*.svg beside the measurements, which have to be there; returns the former's path."""
    results: dict[str, Any] = {}
    for name in TABLES:
        if (path := folder / f"{name}.json").exists():
            results[name] = read_json(path)
            if results[name].get("part") != name or not {"machine", "settings"} <= results[name].keys():
                raise SettingsError(f"{path} holds no measurement of {name}")
    if not results:
        raise SettingsError(f"{folder} holds no measurements; run `python -m benchmarks.speed all` first")
    note = "Measured: median (least to greatest, number of rounds or processes). Ratios are taken within each round."
    rows = [(found.target, found.limit, found.measured, found.verdict) for found in findings(results)]
    targets = table("Targets", ("target", "limit", "measured", "verdict"), rows, note)
    sections = [Section("targets", "Targets", "", (targets,))]
    sections += [Section(x, x.capitalize(), conditions(part), tuple(TABLES[x](part))) for x, part in results.items()]
    if pictures := tuple(make_pictures(results)):
        gallery = Gallery("Cost by density and by size", "Lower is better.", pictures)
        sections.append(Section("pictures", "Pictures", "", (gallery,)))
    machines = "; ".join(dict.fromkeys(machine_in_words(part["machine"]) for part in results.values()))
    return write_files(folder, "What Fish-Dip costs", f"Measured on: {machines}.", sections)[0]


def conditions(part: Part) -> str:
    """How a part was measured."""
    own, machine = part["settings"], part["machine"]
    load = "" if machine["load_before"] is None else f", load before {machine['load_before']:.1f}"
    what = f"T5 {own['geometry']}, {own['dtype']}, {own['device']}, batch {own['batch']} x "
    what += f"({own['source']} + {own['target']}), dropout {own['dropout']:g}"
    if part["part"] == "causal":
        what = f"{part['model']}, {own['dtype']}, {own['device']}, batch {own['causal_batch']} x "
        what += f"({own['causal_tokens']} + {own['causal_tokens']})"
    if part["part"] == "files":
        what = f"T5 {own['geometry']}, {own['device']}"
    return (
        f"{what}, {own['rounds']} rounds after {own['warmup']}, seed {own['seed']}; "
        f"revision {short_revision(machine['revision'], 10)}, {machine['measured_at']}{load}."
    )


YES = {True: "yes", False: "no"}
SPREAD = "min | quartiles | max"


def times(seconds: Sequence[float]) -> tuple[float, str]:
    """Milliseconds: the median, and the rest of the five numbers."""
    values = [1e3 * value for value in seconds]
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return middle, " | ".join(map(shown, (min(values), low, high, max(values))))


def errors(records: Part) -> list[str]:
    return [f"{name} failed: {record['error']}" for name, record in records.items() if record["error"]]


def step_table(part: Part, caption: str = "Training steps") -> Iterator[Table]:
    records, others = part["contestants"], ("frozen", "lora", "full")
    rows: list[tuple[Any, ...]] = []
    for name, record in records.items():
        spent, title = record["seconds"], Method.parse(name).title
        compared = [records.get(other, {"seconds": []})["seconds"] for other in others]
        to_others = [median(ratios(spent, x)) if x and len(x) == len(spent) else None for x in compared]
        figures = (record["trainable"], *times(spent), *to_others) if not record["error"] else ("failed", *[None] * 5)
        rows.append((title, *figures))
    notes = [f"Methods: {part['lifetime']} ({part['lifetime_reason']}).", *errors(records)]
    unfused = [name for name, record in records.items() if record["fused"] is False]
    notes += [f"Without a fused AdamW: {', '.join(unfused)}."] if unfused else []
    header = ("method", "trained entries", "ms", SPREAD, *(f"to {other}" for other in others))
    yield table(caption, header, rows, *notes)


def memory_table(part: Part) -> Iterator[Table]:
    figures = ("peak", "weights", "state", "activations", "saved", "held")
    rows: list[tuple[Any, ...]] = []
    for name, record in part["contestants"].items():
        cells: list[Cell | None] = []
        for figure in figures:
            values = [run[figure] / 1e6 for run in record["processes"]]
            spread = f" ({min(values):.4g} to {max(values):.4g})" if len(set(values)) > 1 else ""
            cells.append(Cell(f"{median(values):.4g}{spread}", median(values)) if values else None)
        rows.append((Method.parse(name).title, *cells))
    notes = (
        "Peak: the most held in a step beyond the process before the model was made. State: what the adapter and the "
        "optimizer keep beside the weights. Activations: the rest of the peak, gradients included.",
        "Saved: by autograd for backward, beyond parameters and buffers. Held: growth of the process in it.",
    )
    header = ("method", *(f"{figure}, MB" for figure in figures))
    yield table("Memory of training", header, rows, *errors(part["contestants"]), *notes)


def auto_table(auto: Part, interval: int) -> Table:
    heard, still = ([x for times in auto[name] for x in times] for name in ("heard_seconds", "step_seconds"))
    rows = [
        ("update", *times(auto["update_seconds"])),
        ("step that is heard", *times(heard)),
        ("step with a mask that stays", *times(still)),
    ]
    notes = (
        f"The update scores {auto['examples']} of the examples of the last {auto['heard']} steps of batch "
        f"{auto['step_batch']}, and takes {100 * median(auto['share']):.3g} % of {interval} steps, hearing included.",
    )
    return table("Masks that update themselves", ("", "ms", SPREAD), rows, *notes)


def update_tables(part: Part) -> Iterator[Table]:
    split, selection = part["split"], part["selection"]
    rows: list[tuple[Any, ...]] = []
    for phase in split["phases"]:
        values = [record[phase] for record in split["update_phases"]]
        rows.append((phase, median(values), f"{100 * median(ratios(values, split['update_seconds'])):.3g} %"))
    rows.append(("whole", median(split["update_seconds"]), "100 %"))
    steps = [second for seconds in split["step_seconds"] for second in seconds]
    notes = (
        f"{split['examples']} examples. {100 * median(split['share']):.3g} % of {split['interval']} steps of batch "
        f"{split['step_batch']}, of which {len(steps)} were measured ({median(steps):.3g} s each).",
        f"Memory grew by {median(split['update_bytes']) / part['parameters']:.3g} bytes per parameter at the peak, "
        "activations of the examples included.",
    )
    yield table("An update of the mask", ("part", "s", "share"), rows, *notes)
    if "auto" in part:
        yield auto_table(part["auto"], split["interval"])
    ways, size = {"ours": "Fish-Dip", "topk": "torch.cat and torch.topk"}, selection["parameters"]
    found = [(title, selection[way]) for way, title in ways.items()]
    rows = [(title, *times(x["seconds"]), median(x["bytes"]) / size) for title, x in found]
    note = f"{selection['k']:,} of {size:,} scores. Same scores chosen: {YES[selection['same']]}."
    yield table("Selection", ("", "ms", SPREAD, "extra bytes per parameter"), rows, note)
    rows = []
    for record in part["fisher"]:
        slow, fast = record["one_by_one"], record["ours"]
        difference, entry = f"{record['norm_difference']:.2g}", f"{record['entry_difference']:.2g}"
        speed = (median(fast), median(slow), median(ratios(slow, fast)))
        rows.append((record["length"], *speed, difference, entry, record["worst"]))
    header = ("tokens", "Fish-Dip, s", "one by one, s", "times as fast", "difference", "of an entry", "most in")
    note = (
        "Difference: norm of the error relative to the tensor's norm, the largest one. Of an entry: relative to the "
        "largest of its tensor."
    )
    yield table("Fisher information of a few examples", header, rows, note)


def decode_tables(part: Part) -> Iterator[Table]:
    spent = {name: record["seconds_per_token"] for name, record in part["decode"].items()}
    rows: list[tuple[Any, ...]] = [
        (name.replace("_", " "), *times(x), median(ratios(x, spent["base"]))) for name, x in spent.items()
    ]
    merged = part["decode"]["fishdip_merged"]
    notes = (
        f"Merged and unmerged decode the same tokens: {YES[merged['same_tokens']]}.",
        f"Merging takes {median(merged['merge_seconds']) * 1e3:.3g} ms, unmerging "
        f"{median(merged['unmerge_seconds']) * 1e3:.3g} ms.",
    )
    yield table("Greedy decoding", ("", "ms per token", SPREAD, "to base"), rows, *notes)


def files_tables(part: Part) -> Iterator[Table]:
    for dtype, records in part["files"].items():
        rows: list[tuple[Any, ...]] = []
        for name, record in records.items():
            milliseconds = [1e3 * median(record[way]) for way in ("save_seconds", "load_seconds")]
            method, comma, way = name.partition(", ")
            title = Method.parse(method).title + comma + way
            rows.append((title, record["trainable"], record["bytes"], *milliseconds))
        yield table(f"Files, {dtype} base", ("", "trained entries", "bytes", "save, ms", "load, ms"), rows)


def serving_tables(part: Part) -> Iterator[Table]:
    own, spent, held = part["settings"], part["request_seconds"], part["held_bytes"]
    few, many = min(held, key=int), max(held, key=int)
    rows: list[tuple[Any, ...]] = [
        (f"switch among {count} adapters", *times(values), None) for count, values in part["switch_seconds"].items()
    ]
    titles = {
        "same": "request, one adapter all the time",
        "switching": "request, another adapter each time",
        "threads": f"the same, by {own['serving_threads']} threads in turn",
    }
    rows += [(titles[way], *times(x), median(ratios(x, spent["same"]))) for way, x in spent.items()]
    notes = [
        f"{many} adapters of {part['entries']:,} entries. Requests are forward passes of one example with "
        f"{own['source']} + {own['target']} tokens: {1 / median(spent['switching']):.3g} a second, each with another "
        "adapter.",
        f"Threads get the outputs of a single one: {YES[part['same_outputs']]}.",
    ]
    if few != many:
        each = (held[many] - held[few]) / (int(many) - int(few))
        notes.append(f"An adapter holds {each / 1e6:.3g} MB, {each / part['entries']:.3g} bytes per entry.")
    yield table("Many adapters over one base", ("", "ms", SPREAD, "to one adapter"), rows, *notes)


def causal_tables(part: Part) -> Iterator[Table]:
    spent, training = part["seconds"], part["training"]
    rows: list[tuple[Any, ...]] = []
    for name, seconds in spent.items():
        other, condition = name.partition(", ")[::2]
        lora = spent["lora, " + condition if condition else "lora"]
        title = {"all_logits": "Fish-Dip, all logits", "fishdip": "Fish-Dip", "lora": "LoRA r8"}[other]
        rows.append((title, condition or "no autocast", *times(seconds), median(ratios(seconds, lora))))
    yield table("Training steps of a decoder-only model", ("method", "", "ms", SPREAD, "to lora"), rows)
    own, updates = part["settings"], list(training["updates"].values())
    row = (own["causal_steps"], training["seconds"], len(updates), sum(updates), 100 * update_share(part))
    header = ("steps", "s", "updates", "s in updates", "share of updates, %")
    yield table("A training that updates its mask by itself, under autocast", header, [row])


def scale_tables(part: Part) -> Iterator[Table]:
    rows, notes = [], []
    for size in part["sizes"]:
        if "steps" not in size:
            notes.append(f"{size_name(size)}: not measured, {size.get('skipped') or size.get('error')}")
            continue
        if size["left_out"]:
            notes.append(f"{size_name(size)}: {', '.join(size['left_out'])} would not fit into memory")
        step, update, count = costs(size).get("step"), costs(size)["update"], size["parameters"]
        per_flop = step and 1e12 * step / (6 * size["multiply_adds"])  # of forward, input and weight gradients
        steps = (step, step and 1e9 * step / count, per_flop)
        rows.append((size_name(size), *steps, update, 1e9 * update / count, size["update"]["most_bytes"] / 1e9))
    notes += [f"{figure}: {ratio:.3g} x" for figure, ratio in linearity(part)]
    header = ("model", "step, s", "ns per parameter", "s per TFLOP of full steps", "update, s", "ns per parameter")
    yield table("Fish-Dip by size of the model", (*header, "peak, GB"), rows, *notes)
    for size in measured_sizes(part):
        yield from step_table(size["steps"], f"Training steps: {size_name(size)}")


def largest_table(part: Part) -> Iterator[Table]:
    size, header = part["size"], ("model", "peak, GB", "of which weights, GB", "step, s", "update, s")
    if "steps" in size:
        memory = [x / 1e9 for x in (size["update"]["most_bytes"], size["weights"])]
        row = (size_name(size), *memory, costs(size).get("step"), costs(size)["update"])
        yield table("Fish-Dip on the largest model", header, [row])
    else:
        note = f"{size_name(size)}: {size.get('skipped') or size.get('error')}"
        yield table("Fish-Dip on the largest model", header, [], note)


def compilation_table(part: Part) -> Iterator[Table]:
    rows: list[tuple[Any, ...]] = []
    for name, record in part["contestants"].items():
        ways: Any = (record["compiled"], record["eager"])
        figures: list[float | None] = [None] * 4
        if not record["error"]:
            figures = [record["compile_seconds"], *(1e3 * median(x) for x in ways), median(ratios(*ways))]
        rows.append((Method.parse(name).title, *figures))
    header = ("method", "first step, s", "compiled, ms", "eager, ms", "compiled to eager")
    yield table("Steps under torch.compile", header, rows, *errors(part["contestants"]))


def make_pictures(results: Results) -> Iterator[Picture]:
    """Time of a step by density, and seconds by size for each data type that was measured."""
    records = results.get("steps", {}).get("contestants", {})
    measured = {Method.parse(name): record["seconds"] for name, record in records.items() if record["seconds"]}
    if Method("frozen") in measured and any(method.kind == "fishdip" for method in measured):
        title = f"Cost of a step by density\n{results['steps']['parameters'] / 1e6:.3g} M parameters"
        yield by_density(title, {x: median(ratios(y, measured[Method("frozen")])) for x, y in measured.items()})
    sizes = sorted(measured_sizes(results.get("scale", {"sizes": []})), key=lambda size: size["parameters"])
    for dtype in sorted({size["dtype"] for size in sizes}):
        yield by_size(dtype, [size for size in sizes if size["dtype"] == dtype])


def by_density(title: str, to_floor: Mapping[Method, float]) -> Picture:
    """Fish-Dip as lines, methods of one density as marks, and those without a density as level lines."""
    look = looks(method.kind for method in to_floor)
    lines: dict[str, Any] = {}
    ticks = sorted({method.density for method in to_floor} - {0.0})
    for method, value in sorted(to_floor.items(), key=lambda item: (not item[0].pattern, item[0].density)):
        x = [method.density] if method.density else [ticks[0], ticks[-1]]
        label = f"Fish-Dip, {method.pattern}" if method.pattern else method.kind
        own = replace(look[method.kind], **STYLES.get(method.pattern or method.kind, {}))
        lines.setdefault(label, ([], own))[0].extend((at, value) for at in x)
    labels = [f"{100 * tick:g} %" for tick in ticks]
    axes: Any = {"xscale": "log", "xticks": ticks, "xticklabels": labels, "ylim": (0, None), "xlabel": "density"}
    return draw_lines("step-by-density", title, 3.0, lines, **axes, ylabel="time of a step, to frozen")


def by_size(dtype: str, sizes: Sequence[Part]) -> Picture:
    """The steps of all methods, and mask updates."""
    names = dict.fromkeys(name for size in sizes for name in size["steps"]["contestants"])
    look, lines = looks([*(Method.parse(name).kind for name in names), "fishdip"]), {}
    for name in names:
        spent = [(x["parameters"], x["steps"]["contestants"].get(name, {"seconds": []})["seconds"]) for x in sizes]
        if points := [(parameters, median(seconds)) for parameters, seconds in spent if seconds]:
            lines[f"step, {name}"] = (points, look[Method.parse(name).kind])
    updates = [(size["parameters"], median(size["update"]["update_seconds"])) for size in sizes]
    own = replace(look["fishdip"], **STYLES["real"], marker="D")
    lines[f"update, {sizes[0]['update']['examples']} examples"] = (updates, own)
    axes: Any = {"xscale": "log", "yscale": "log", "xlabel": "parameters", "ylabel": "seconds"}
    return draw_lines(f"cost-by-size-{dtype}", f"Cost by size of the model, {dtype}", 3.8, lines, **axes)


TABLES: dict[str, Callable[[Part], Iterator[Table]]] = {
    "steps": step_table,
    "memory": memory_table,
    "update": update_tables,
    "decode": decode_tables,
    "files": files_tables,
    "serving": serving_tables,
    "causal": causal_tables,
    "scale": scale_tables,
    "largest": largest_table,
    "compilation": compilation_table,
}
