"""Table and pictures from the JSON files of what was measured; the same files give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..report.content import Gallery, Section, Table
from ..report.markdown import markdown
from ..results import short_revision
from ..settings import SettingsError, read_json
from .machine import in_words
from .pictures import make_pictures
from .tables import (
    compilation_table,
    decode_table,
    file_table,
    largest_table,
    memory_table,
    scale_tables,
    step_table,
    target_table,
    update_tables,
)
from .targets import Results

PART_NAMES = ("steps", "memory", "update", "decode", "scale", "largest", "compilation")


def read_parts(folder: Path) -> dict[str, Any]:
    """What has been measured so far, by part.

    Raises:
        SettingsError: nothing, or a file is none of a measurement.
    """
    parts = {}
    for name in PART_NAMES:
        path = folder / f"{name}.json"
        if path.exists():
            parts[name] = read_json(path)
            if parts[name].get("part") != name or not {"machine", "settings"} <= parts[name].keys():
                raise SettingsError(f"{path} holds no measurement of {name}")
    if not parts:
        raise SettingsError(f"{folder} holds no measurements; run `python -m benchmarks.speed all` first")
    return parts


def write_report(folder: Path) -> Path:
    """Write report.md and pictures/*.svg into the folder of the measurements; returns the former."""
    results = read_parts(folder)
    pictures = make_pictures(results)
    sections = [Section("targets", "Targets", "", (target_table(results),))]
    for name, part in results.items():
        sections.append(Section(name, name.capitalize(), conditions(part), tables_of(name, part)))
    if pictures:
        gallery = Gallery("Cost by density and by size", "Lower is better.", tuple(pictures))
        sections.append(Section("pictures", "Pictures", "", (gallery,)))
    for picture in pictures:
        path = folder / "pictures" / f"{picture.name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(picture.svg, encoding="utf-8")
    path = folder / "report.md"
    path.write_text(markdown("What Fish-Dip costs", summary(results), sections), encoding="utf-8")
    return path


def tables_of(name: str, part: Mapping[str, Any]) -> tuple[Table, ...]:
    if name == "steps":
        return (step_table(part),)
    if name == "memory":
        return (memory_table(part),)
    if name == "decode":
        return decode_table(part["decode"]), file_table(part["files"])
    if name == "largest":
        return (largest_table(part["size"]),)
    if name == "compilation":
        return (compilation_table(part["contestants"]),)
    return tuple(update_tables(part) if name == "update" else scale_tables(part))


def summary(results: Results) -> str:
    machines = dict.fromkeys(in_words({**part["machine"], "load_before": None}) for part in results.values())
    return f"Measured on: {'; '.join(machines)}."


def conditions(part: Mapping[str, Any]) -> str:
    """How a part was measured, in a sentence."""
    own = part["settings"]
    model = own["model"] or f"T5 {own['geometry']}"
    autocast = " under bfloat16 autocast" if own["autocast"] else ""
    load = part["machine"]["load_before"]
    return (
        f"{model}, {own['dtype']}{autocast}, {own['device']}, batch {own['batch']} x "
        f"({own['source']} + {own['target']}), dropout {own['dropout']:g}, {own['rounds']} rounds after "
        f"{own['warmup']}, seed {own['seed']}; revision "
        f"{short_revision(part['machine']['revision'], 10)}, {part['machine']['measured_at']}"
        + (f", load before {load:.1f}." if load is not None else ".")
    )
