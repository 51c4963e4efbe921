"""The folder of a self-training: what it follows from, and the teacher and the record of each round.

The file settings.json, and folders round-0, round-1, ... with adapter_config.json, adapter_model.safetensors and
record.json each.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any

from .records import RoundRecord, record_from

SETTINGS, RECORD = "settings.json", "record.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


class Store:
    """Rounds that are done; each appears as a whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write down what the rounds follow from, or compare with what was written.

        Raises:
            ValueError: it differs, or the folder is none of a self-training.
        """
        path = self.folder / SETTINGS
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any(self.folder.iterdir()):
                raise ValueError(f"{self.folder} is not empty and holds no self-training; give a new folder")
            _write(path, json.dumps(settings, ensure_ascii=False, indent=2, sort_keys=True))
            return
        before = _read(path)
        if not isinstance(before, dict):
            raise ValueError(f"{path} is damaged; delete {self.folder}, or give a new folder")
        now = json.loads(json.dumps(settings))
        changed = [
            f"{name} was {_shown(before.get(name))}, is {_shown(now.get(name))}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise ValueError(
                f"{self.folder} is of another self-training: {'; '.join(changed)}. Pass the same, or give a new folder"
            )

    def records(self, most: int) -> list[RoundRecord]:
        """Of the rounds that are done without a gap, from 0 to `most`.

        Raises:
            ValueError: one is damaged.
        """
        found: list[RoundRecord] = []
        while len(found) <= most and (folder := self.place(len(found))).exists():
            content = _read(folder / RECORD)
            if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
                raise ValueError(f"{folder / RECORD} is damaged; delete this folder and the later ones")
            for name in ADAPTER:
                path = folder / name
                if not path.is_file() or content["files"].get(name) != _digest(path):
                    raise ValueError(f"{path} is not what round {len(found)} wrote; delete this folder and later ones")
            record = record_from(content.get("record"), str(folder / RECORD))
            if record.round != len(found):
                raise ValueError(f"{folder} holds the record of round {record.round}; delete it and the later ones")
            found.append(record)
        return found

    def place(self, number: int) -> Path:
        """The folder of a round."""
        return self.folder / f"round-{number}"

    def add(self, model: Any, adapter: str, record: RoundRecord) -> None:
        """Save an adapter of a PeftModel and its record."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".saving-") as name:
            draft = Path(name)
            model.save_pretrained(str(draft), selected_adapters=[adapter])
            saved = draft if adapter == "default" else draft / adapter
            made = draft / "round"
            made.mkdir()
            for file in ADAPTER:
                os.replace(saved / file, made / file)
            content = {"record": record.to_dict(), "files": {file: _digest(made / file) for file in ADAPTER}}
            _write(made / RECORD, json.dumps(content, ensure_ascii=False, indent=2))
            place = self.place(record.round)
            if place.exists():
                shutil.rmtree(place)
            os.replace(made, place)


@contextmanager
def opened(folder: str | PathLike[str] | None) -> Iterator[Store]:
    """The store in a folder, or in a temporary one."""
    if folder is not None:
        yield Store(Path(folder))
        return
    with tempfile.TemporaryDirectory(prefix="fishdip-") as name:
        yield Store(Path(name))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete its folder, or give a new one") from None


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text + "\n", encoding="utf-8")
    os.replace(draft, path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        total = sha256()
        while block := file.read(2**20):
            total.update(block)
    return total.hexdigest()


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."
