"""The command line's options, from the fields of Settings."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..settings import SettingsError
from .geometry import GEOMETRIES
from .settings import DTYPES, PRESETS, Settings
from .spec import Spec

COMMANDS = {
    "steps": "seconds of training steps, contestants in turns",
    "memory": "memory of training and bytes saved for backward, each contestant in processes of its own",
    "update": "mask updates by part, their share of training, selection and Fisher information alone",
    "decode": "greedy decoding, saving and loading",
    "scale": "steps and updates by size of the model",
    "largest": "whether the largest model can be trained here, and its memory",
    "compilation": "training steps with and without torch.compile",
    "all": "all of these, then the report",
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description="What Fish-Dip costs.")
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="{steps,memory,update,decode,scale,largest,compilation,all,report,calibrate}",
    )
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"Measures {text}.")
        differences = "; ".join(f"{preset}: {described(values)}" for preset, values in PRESETS.items() if values)
        command.add_argument(
            "--preset", choices=[*PRESETS], default="cpu", help=f"defaults; cpu (default): as below; {differences}"
        )
        add_output(command)
        add_settings(command)
    reporting = commands.add_parser("report", help="table and pictures of what has been measured")
    add_output(reporting)
    calibrating = commands.add_parser("calibrate", help="what the choice of a weight gradient's backend rests on")
    calibrating.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    child = commands.add_parser("child")  # without help: a measurement's own process
    child.add_argument("task")
    child.add_argument("message")
    return parser


def add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", type=Path, default=Path("runs/speed"), help="folder of results and report (default: runs/speed)"
    )


def add_settings(command: argparse.ArgumentParser) -> None:
    """An option per field; what is not given stays out of the namespace."""
    groups: dict[str, Any] = {}
    for item in fields(Settings):
        group = item.metadata["group"]
        if group not in groups:
            groups[group] = command.add_argument_group(group)
        default: Any = item.default
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": item.name}
        shown = "" if default in (None, ()) or isinstance(default, bool) else described({"": default})
        text = item.metadata["help"] + (f" (default: {shown})" if shown else "")
        if isinstance(default, bool):
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(default, tuple):
            options |= {"nargs": "+", "type": type(default[0]) if default else str, "metavar": "X"}
        else:
            options |= {"type": str if default is None else type(default), "metavar": "X"}
        groups[group].add_argument(f"--{item.name.replace('_', '-')}", help=text.replace("%", "%%"), **options)


def described(values: dict[str, Any]) -> str:
    """Options as a user would type them."""
    words = []
    for name, value in values.items():
        text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words.append(f"--{name.replace('_', '-')} {text}" if name else text)
    return " ".join(words)


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings: defaults, the preset, what was given, in this order.

    Raises:
        SettingsError: an option is out of range, or names what there is not.
    """
    known = {item.name for item in fields(Settings)}
    given = {name: value for name, value in vars(options).items() if name in known}
    settings = Settings.from_dict({**PRESETS[options.preset], **given})
    for text in (*settings.contestants, *settings.scale_contestants, *settings.compiled_contestants):
        Spec.parse(text)
    for text in (*settings.geometries, settings.largest):
        geometry, _, dtype = text.partition(":")
        if geometry not in GEOMETRIES or (dtype and dtype not in DTYPES):
            raise SettingsError(
                f"geometry {text!r} is unknown; there are {', '.join(GEOMETRIES)}, each with or without "
                f"{' or '.join(f':{name}' for name in DTYPES)}"
            )
    return settings
