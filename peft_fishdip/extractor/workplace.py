"""Folders that are written as a whole or not at all, and the folder of an unfinished training."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

_CHOICES = "settings.json"
_DONE = ("checkpoint", "round")
"""Names of the folders that a training can go on from; a number follows."""


@contextmanager
def new_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into, which gets its name when the block ends without an error.

    Raises:
        FileExistsError: the name is taken, and the folder is not to be replaced.
    """
    check_free(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft, old = (target.with_name(f".{secrets.token_hex(4)}-{kind}-{target.name}") for kind in ("new", "old"))
    try:
        draft.mkdir()
        yield draft
        if target.exists():
            os.replace(target, old)
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(old, ignore_errors=True)


def check_free(target: Path, overwrite: bool) -> None:
    """Refuse the name of a file, and of a folder with other content.

    Raises:
        FileExistsError: see above.
    """
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file; give the name of a new folder")
    if target.exists() and any(target.iterdir()):
        if not overwrite:
            raise FileExistsError(f"{target} exists; give another name, or pass overwrite (--overwrite) to replace it")
        if not (target / "adapter_config.json").is_file():
            raise FileExistsError(f"{target} holds no adapter, so that it is not replaced; give another name")


@contextmanager
def training_folder(output: Path | None, choices: Mapping[str, Any], resume: bool) -> Iterator[Path]:
    """The folder of the checkpoints, `<output>.training`, which is removed when the block ends without an error.

    Args:
        output: where the adapter is to be; None: a temporary folder.
        choices: all that the training follows from. One that goes on must have the same.
        resume: go on with an unfinished training.

    Raises:
        ValueError: there is none to go on with, or one of other choices.
        FileExistsError: there is an unfinished one, and it is not to be gone on with.
    """
    if output is None:
        with tempfile.TemporaryDirectory(prefix="fishdip-") as name:
            yield Path(name)
        return
    folder = output.with_name(f"{output.name}.training")
    file = folder / _CHOICES
    if resume:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ValueError(f"{folder} holds no unfinished training; leave resume (--resume) out") from None
        found = found if isinstance(found, dict) else {}
        if other := sorted(name for name, value in choices.items() if found.get(name) != value):
            raise ValueError(
                f"{folder} is of a training with another {', '.join(other)}; pass the same, or begin anew under "
                "another name"
            )
    elif folder.exists():
        raise FileExistsError(f"{folder} holds an unfinished training; pass resume (--resume), or delete this folder")
    else:
        folder.mkdir(parents=True)
        file.write_text(json.dumps(choices, ensure_ascii=False, indent=2), encoding="utf-8")
    try:
        yield folder
    except BaseException:
        if not any(path for kind in _DONE for path in folder.glob(f"*/{kind}-*")):
            shutil.rmtree(folder, ignore_errors=True)  # there is nothing to go on from
        raise
    shutil.rmtree(folder, ignore_errors=True)


def digest(content: Any) -> str:
    """Of anything with a faithful `repr`."""
    return sha256(repr(content).encode("utf-8", "backslashreplace")).hexdigest()
