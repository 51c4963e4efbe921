"""The figures as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..report.content import Cell, Table
from .clock import Spread, ratios, shown
from .spec import Spec
from .targets import Results, costs, findings, linearity, measured_sizes, size_name

COMPARED_WITH = ("frozen", "lora", "full")


def target_table(results: Results) -> Table:
    lines = [
        (Cell(found.target), Cell(found.limit), Cell(found.measured), Cell(found.verdict))
        for found in findings(results)
    ]
    note = "Measured: median (least to greatest, number of rounds or processes). Ratios are taken within each round."
    return Table("Targets", ("target", "limit", "measured", "verdict"), tuple(lines), (note,))


def number(value: float | None, unit: float = 1.0) -> Cell:
    return Cell("-") if value is None else Cell(shown(value / unit), value)


def spread_cell(values: Sequence[float], unit: float = 1.0) -> Cell:
    """Quartiles and extremes."""
    if not values:
        return Cell("-")
    own = Spread.of([value / unit for value in values])
    return Cell(" | ".join(map(shown, (own.low, own.quarter, own.three_quarters, own.high))))


def step_table(part: Mapping[str, Any], caption: str = "Training steps") -> Table:
    contestants = part["contestants"]
    header = ("contestant", "trained entries", "ms", "min | quartiles | max", *(f"to {name}" for name in COMPARED_WITH))
    lines: list[tuple[Cell, ...]] = []
    for name, record in contestants.items():
        if record["error"]:
            lines.append((Cell(Spec.parse(name).title), Cell("failed"), *([Cell("-")] * 5)))
            continue
        to_others = []
        for other in COMPARED_WITH:
            compared = contestants.get(other, {"seconds": []})["seconds"]
            same = len(compared) == len(record["seconds"])
            to_others.append(number(Spread.of(ratios(record["seconds"], compared)).median if same else None))
        lines.append(
            (
                Cell(Spec.parse(name).title),
                Cell(f"{record['trainable']:,}", record["trainable"]),
                number(Spread.of(record["seconds"]).median, 1e-3),
                spread_cell(record["seconds"], 1e-3),
                *to_others,
            )
        )
    notes = [f"Contestants: {part['lifetime']} ({part['lifetime_reason']})."]
    notes += [f"{name} failed: {record['error']}" for name, record in contestants.items() if record["error"]]
    unfused = [name for name, record in contestants.items() if record["fused"] is False]
    notes += [f"Without a fused AdamW: {', '.join(unfused)}."] if unfused else []
    return Table(caption, header, tuple(lines), tuple(notes))


def memory_table(part: Mapping[str, Any]) -> Table:
    figures = ("peak", "weights", "state", "activations", "saved", "held")
    lines: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for name, record in part["contestants"].items():
        if record["error"]:
            notes.append(f"{name} failed: {record['error']}")
        if not record["processes"]:
            lines.append((Cell(Spec.parse(name).title), *([Cell("-")] * len(figures))))
            continue
        cells = []
        for figure in figures:
            spread = Spread.of([process[figure] / 1e6 for process in record["processes"]])
            extremes = f" ({spread.low:.4g} to {spread.high:.4g})" if spread.low != spread.high else ""
            cells.append(Cell(f"{spread.median:.4g}{extremes}", spread.median))
        lines.append((Cell(Spec.parse(name).title), *cells))
    notes += [
        "Peak: the most held in a step beyond the process before the model was made. State: what the adapter and the "
        "optimizer keep beside the weights. Activations: the rest of the peak, gradients included.",
        "Saved: by autograd for backward, beyond parameters and buffers. Held: growth of the process in it.",
    ]
    header = ("contestant", *(f"{figure}, MB" for figure in figures))
    return Table("Memory of training", header, tuple(lines), tuple(notes))


def update_tables(part: Mapping[str, Any]) -> Iterator[Table]:
    yield split_table(part["split"], part["parameters"])
    yield selection_table(part["selection"])
    yield fisher_table(part["fisher"])


def selection_table(selection: Mapping[str, Any]) -> Table:
    lines = tuple(
        (
            Cell(title),
            number(Spread.of(selection[name]["seconds"]).median, 1e-3),
            spread_cell(selection[name]["seconds"], 1e-3),
            number(Spread.of(selection[name]["bytes"]).median / selection["parameters"]),
        )
        for name, title in (("ours", "Fish-Dip"), ("topk", "torch.cat and torch.topk"))
    )
    note = f"{selection['k']:,} of {selection['parameters']:,} scores. Same scores chosen: {yes(selection['same'])}."
    return Table("Selection", ("", "ms", "min | quartiles | max", "extra bytes per parameter"), lines, (note,))


def fisher_table(records: Sequence[Mapping[str, Any]]) -> Table:
    lines = tuple(
        (
            number(record["length"]),
            number(Spread.of(record["ours"]).median),
            number(Spread.of(record["one_by_one"]).median),
            number(Spread.of(ratios(record["one_by_one"], record["ours"])).median),
            Cell(f"{record['norm_difference']:.2g}"),
            Cell(f"{record['entry_difference']:.2g}"),
            Cell(record["worst"]),
        )
        for record in records
    )
    header = ("tokens", "Fish-Dip, s", "one by one, s", "times as fast", "difference", "of an entry", "most in")
    notes = (
        "Difference: norm of the error relative to the tensor's norm, the largest one. Of an entry: relative to the "
        "largest of its tensor.",
    )
    return Table("Fisher information of a few examples", header, lines, notes)


def split_table(split: Mapping[str, Any], parameters: int) -> Table:
    whole = Spread.of(split["update_seconds"]).median
    lines: list[tuple[Cell, ...]] = []
    for phase in split["phases"]:
        values = [record[phase] for record in split["update_phases"]]
        shares = ratios(values, split["update_seconds"])
        lines.append((Cell(phase), number(Spread.of(values).median), Cell(f"{100 * Spread.of(shares).median:.3g} %")))
    lines.append((Cell("whole"), number(whole), Cell("100 %")))
    steps = [second for seconds in split["step_seconds"] for second in seconds]
    notes = (
        f"{split['examples']} examples. {100 * Spread.of(split['share']).median:.3g} % of {split['interval']} steps of "
        f"batch {split['step_batch']}, of which {len(steps)} were measured ({Spread.of(steps).median:.3g} s each).",
        f"Memory grew by {Spread.of(split['update_bytes']).median / parameters:.3g} bytes per parameter at the peak, "
        "activations of the examples included.",
    )
    return Table("An update of the mask", ("part", "s", "share"), tuple(lines), notes)


def decode_table(decode: Mapping[str, Any]) -> Table:
    base = decode["base"]["seconds_per_token"]
    lines: list[tuple[Cell, ...]] = []
    for name, record in decode.items():
        values = record["seconds_per_token"]
        to_base = number(Spread.of(ratios(values, base)).median)
        lines.append(
            (Cell(name.replace("_", " ")), number(Spread.of(values).median, 1e-3), spread_cell(values, 1e-3), to_base)
        )
    merged = decode["fishdip_merged"]
    notes = (
        f"Merged and unmerged decode the same tokens: {yes(merged['same_tokens'])}.",
        f"Merging takes {Spread.of(merged['merge_seconds']).median * 1e3:.3g} ms, unmerging "
        f"{Spread.of(merged['unmerge_seconds']).median * 1e3:.3g} ms.",
    )
    return Table("Greedy decoding", ("", "ms per token", "min | quartiles | max", "to base"), tuple(lines), notes)


def file_table(files: Mapping[str, Any]) -> Table:
    lines = [
        (
            Cell(Spec.parse(name).title),
            Cell(f"{record['trainable']:,}", record["trainable"]),
            Cell(f"{record['bytes']:,}", record["bytes"]),
            number(Spread.of(record["save_seconds"]).median, 1e-3),
            number(Spread.of(record["load_seconds"]).median, 1e-3),
        )
        for name, record in files.items()
    ]
    return Table("Files", ("", "trained entries", "bytes", "save, ms", "load, ms"), tuple(lines))


def scale_tables(part: Mapping[str, Any]) -> Iterator[Table]:
    lines: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for size in part["sizes"]:
        name = size_name(size)
        if "steps" not in size:
            notes.append(f"{name}: not measured, {size.get('skipped') or size.get('error')}")
            continue
        if size["left_out"]:
            notes.append(f"{name}: {', '.join(size['left_out'])} would not fit into memory")
        cost, operations = costs(size), 6 * size["multiply_adds"]  # of forward, input and weight gradients
        step = cost.get("step")
        lines.append(
            (
                Cell(name),
                number(step),
                number(step and step / size["parameters"], 1e-9),
                number(step and step / operations, 1e-12),
                number(cost["update"]),
                number(cost["update"] / size["parameters"], 1e-9),
                number(size["update"]["most_bytes"], 1e9),
            )
        )
    notes += [f"{figure}: {ratio:.3g} x" for figure, ratio in linearity(part)]
    header = (
        "model",
        "step, s",
        "ns per parameter",
        "s per TFLOP of full steps",
        "update, s",
        "ns per parameter",
        "peak, GB",
    )
    yield Table("Fish-Dip by size of the model", header, tuple(lines), tuple(notes))
    for size in measured_sizes(part):
        yield step_table(size["steps"], f"Training steps: {size_name(size)}")


def largest_table(size: Mapping[str, Any]) -> Table:
    """Of one size, or why there are no figures."""
    header = ("model", "peak, GB", "of which weights, GB", "step, s", "update, s")
    if "steps" not in size:
        return Table(
            "Fish-Dip on the largest model",
            header,
            (),
            (f"{size_name(size)}: {size.get('skipped') or size.get('error')}",),
        )
    cost = costs(size)
    figures = (size["update"]["most_bytes"] / 1e9, size["weights"] / 1e9, cost.get("step"), cost["update"])
    return Table("Fish-Dip on the largest model", header, ((Cell(size_name(size)), *map(number, figures)),))


def compilation_table(contestants: Mapping[str, Any]) -> Table:
    header = ("contestant", "first step, s", "compiled, ms", "eager, ms", "compiled to eager")
    lines: list[tuple[Cell, ...]] = []
    notes: list[str] = []
    for name, record in contestants.items():
        title = Cell(Spec.parse(name).title)
        if record["error"]:
            lines.append((title, *([Cell("-")] * 4)))
            notes.append(f"{name} failed: {record['error']}")
            continue
        ratio = Spread.of(ratios(record["compiled"], record["eager"])).median
        figures = [number(Spread.of(record[way]).median, 1e-3) for way in ("compiled", "eager")]
        lines.append((title, number(record["compile_seconds"]), *figures, number(ratio)))
    return Table("Steps under torch.compile", header, tuple(lines), tuple(notes))


def yes(value: bool) -> str:
    return "yes" if value else "no"
