"""An adapter merged into its base model, as a model folder that needs neither this package nor PEFT."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch

from .changes import Change, changes_of
from .patch import Written


def write_merged(
    adapter: str | PathLike[str], output: str | PathLike[str], *, model: str | None = None, progress: bool = False
) -> Written:
    """Write the base model with the deltas of an adapter into a new folder.

    Each file of the base model is copied, and the entries that the adapter changes are written into the copy, tensor by
    tensor, so that the model is never in memory. Names, dtypes and the division into files are those of the base model.

    Args:
        adapter: folder of the adapter.
        output: the folder.
        model: folder or Hub id of the base model, if it has another place than the adapter says.
        progress: show a bar on stderr.

    Raises:
        ValueError: as in [`changes_of`]. No folder is written then.
        FileExistsError: there is something of that name.
    """
    target = Path(output)
    if target.exists():
        raise FileExistsError(f"{target} exists; give another name, or delete it first")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no folder {target.parent}; create it first")
    base, changes = changes_of(adapter, model, progress)
    draft = target.with_name(f".{secrets.token_hex(4)}-{target.name}")
    try:
        draft.mkdir()
        for path in base.beside():
            shutil.copyfile(path, draft / path.name)
        for path in base.shards():
            shutil.copyfile(path, draft / path.name)
            here = {name: change for name, change in changes.items() if base.tensors[name] == path}
            write_into(draft / path.name, here)
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Written(len(changes), sum(change.positions.numel() for change in changes.values()))


def write_into(path: Path, changes: Mapping[str, Change]) -> None:
    """Write new values into a safetensors file in place.

    The file begins with the length of its header, 8 bytes, and the header, JSON with the place of each tensor's bytes
    behind it (https://github.com/huggingface/safetensors#format).
    """
    with open(path, "r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        for name, change in changes.items():
            start, end = (8 + length + offset for offset in header[name]["data_offsets"])
            opened.seek(start)
            content = bytearray(opened.read(end - start))
            # bytes, because what is read need not begin where the dtype may
            entries = torch.frombuffer(content, dtype=torch.uint8).view(-1, change.values.element_size())
            entries[change.positions] = change.values.contiguous().view(torch.uint8).view(len(change.values), -1)
            opened.seek(start)
            opened.write(content)
