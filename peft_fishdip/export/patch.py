"""An adapter as a sparse patch of its base model's checkpoint, in a safetensors file.

vLLM applies such patches to a loaded model (`load_checkpoint_weight_patches`, vllm-project/vllm#50723). It has a form
for them in memory, of which [`WeightPatch`] has the fields, and none on disk; the names of the tensors and of the
metadata here are those of trl's files (huggingface/trl#5937).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .changes import Change, changes_of

INDICES, VALUES = ".idx", ".val"
"""What the tensors of a patch add to the name of a tensor of the checkpoint."""
METADATA = {"format": "sparse_weight_patch", "version": "1", "sparse": "True", "encoding": "raw"}
SHAPES, DIGEST = "shapes", "sha256"
"""Keys of the metadata: the shapes of the checkpoint's tensors, as JSON, and a checksum of the tensors of the patch."""


class WeightPatch(NamedTuple):
    """The new values of some entries of one tensor of a checkpoint: the fields of vLLM's CheckpointWeightPatch."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    values: Tensor
    """Absolute, in `dtype`."""
    indices: Tensor
    """Flat positions, ascending: int32, or int64 in a tensor of more than 2**31 entries."""


class Written(NamedTuple):
    """How much was written."""

    tensors: int
    entries: int


def write_patch(
    adapter: str | PathLike[str],
    output: str | PathLike[str],
    *,
    inverse: str | PathLike[str] | None = None,
    model: str | None = None,
    progress: bool = False,
) -> Written:
    """Write the entries of the base model's files that an adapter changes, with their new values, into a new file.

    Args:
        adapter: folder of the adapter.
        output: the file.
        inverse: another file, for the patch with the same entries that puts the base values back.
        model: folder or Hub id of the base model, if it has another place than the adapter says.
        progress: show a bar on stderr.

    Raises:
        ValueError: as in [`changes_of`]; or the adapter changes nothing. No file is written then.
        FileExistsError: there is such a file, or both are to have one name.
    """
    files = [Path(output), *([] if inverse is None else [Path(inverse)])]
    check_new_files(files)
    _, changes = changes_of(adapter, model, progress)
    if not changes:
        raise ValueError(f"{adapter} changes no value of its base model: it has not been trained, and needs no patch")
    patches = [{name: change.values for name, change in changes.items()}]
    patches.append({name: change.base for name, change in changes.items()})
    with new_files(files) as drafts:
        for draft, values in zip(drafts, patches, strict=False):
            tensors = tensors_of(changes, values)
            shapes = json.dumps({name: change.shape for name, change in changes.items()})
            save_file(tensors, draft, metadata={**METADATA, SHAPES: shapes, DIGEST: digest_of(shapes, tensors)})
    return Written(len(changes), sum(change.positions.numel() for change in changes.values()))


def check_new_files(files: list[Path]) -> None:
    """Raise an error unless all files can be written anew."""
    for path in files:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {path.parent}; create it first")
        if path.exists():
            raise FileExistsError(f"{path} exists; give another name, or delete it first")
    if len({path.resolve() for path in files}) < len(files):
        raise FileExistsError(f"{files[0]}: the patch and its inverse need different names")


@contextmanager
def new_files(files: list[Path]) -> Iterator[list[Path]]:
    """Files to write into, which get their names when the block ends without an error."""
    drafts = [path.with_name(f".{secrets.token_hex(4)}-{path.name}") for path in files]
    with ExitStack() as stack:
        for draft in drafts:
            stack.callback(draft.unlink, missing_ok=True)
        yield drafts
        for draft, path in zip(drafts, files, strict=True):
            os.replace(draft, path)


def tensors_of(changes: Mapping[str, Change], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, change in changes.items():
        wide = math.prod(change.shape) > 2**31
        found[name + INDICES] = change.positions.to(torch.int64 if wide else torch.int32).contiguous()
        found[name + VALUES] = values[name].contiguous()
    return found


def digest_of(shapes: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the shapes and of the bytes of all tensors in the order of their names, as hex digits."""
    found = hashlib.sha256(shapes.encode())
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype}".encode())
        found.update(tensors[name].view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def read_patch(path: str | PathLike[str]) -> list[WeightPatch]:
    """The patches in a file that [`write_patch`] has written, checked.

    Raises:
        ValueError: the file is damaged, or something else.
    """
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        shapes = json.loads(metadata[SHAPES])
        known = {**metadata, **METADATA} == metadata and digest_of(metadata[SHAPES], tensors) == metadata[DIGEST]
        named = [
            (name, tuple(shape), tensors[name + VALUES], tensors[name + INDICES]) for name, shape in shapes.items()
        ]
        found = [WeightPatch(name, shape, values.dtype, values, indices) for name, shape, values, indices in named]
        sound = known and len(tensors) == 2 * len(found) and all(map(is_sound, found))
    except (SafetensorError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no patch of a checkpoint, or is damaged ({error}); export it again") from error
    if not sound:
        raise ValueError(f"{path} is no patch of a checkpoint, or is damaged; export it again")
    return found


def is_sound(patch: WeightPatch) -> bool:
    """Whether a patch can be applied: finite values, one for each of its ascending positions in the tensor."""
    indices, values = patch.indices, patch.values
    if indices.dtype not in (torch.int32, torch.int64) or not values.is_floating_point():
        return False
    if indices.dim() != 1 or indices.shape != values.shape or not indices.numel() or min(patch.shape, default=1) < 0:
        return False
    inside = int(indices[0]) >= 0 and int(indices[-1]) < math.prod(patch.shape)
    return inside and bool((indices[1:] > indices[:-1]).all()) and bool(values.isfinite().all())
