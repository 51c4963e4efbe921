"""Files of results: written whole or not at all; what goes wrong is an error of one line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .settings import SettingsError, read_json


def make_folder(path: Path) -> Path:
    """The folder, made if it is not there.

    Raises:
        SettingsError: it cannot be made, e.g. because a file has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{path} cannot be a folder: {error}; choose another") from error
    return path


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all.

    Raises:
        SettingsError: it cannot be written.
    """
    make_folder(path.parent)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error}; make room for it, or choose another folder") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file, whole or not at all; NaN and infinities, which JSON lacks, as null."""
    write_text(path, json.dumps(finite(content), indent=1, default=sorted, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The same content with None for what is no finite number."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_own(path: Path) -> dict[str, Any]:
    """The JSON object of a file that a comparison wrote.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return read_json(path)
    except SettingsError as error:
        raise SettingsError(f"{error}; delete this file") from error
