"""Numbers of a measurement that its command line takes, and that its report writes down again."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any


def add_numbers(parser: argparse.ArgumentParser, settings: type, names: Sequence[str]) -> None:
    """An option for each of these whole numbers, whose default is that of the settings."""
    for name in names:
        default = getattr(settings, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default: {default}")


def options_of(own: Mapping[str, Any], settings: type, names: Sequence[str]) -> str:
    """The options that give these settings where they are not the default ones, each after a space."""
    changed = [(name, own[name]) for name in names if own[name] != getattr(settings, name)]
    return "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed)
