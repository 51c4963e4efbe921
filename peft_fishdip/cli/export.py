"""fishdip export: an adapter for programs that do not know the method."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..export import write_merged, write_patch
from .messages import printable
from .options import Base

FORMS = ("vllm-patch", "merged", "gguf-ready")


def export(
    adapter: Annotated[Path, typer.Argument(help="Folder of an adapter.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New file of a patch, or new folder of a model.")],
    to: Annotated[str, typer.Option("--to", help=f"What to write: {', '.join(FORMS)}.")],
    model: Base = None,
    inverse: Annotated[
        Path | None, typer.Option(help="With vllm-patch: another new file, for the patch that puts the base back.")
    ] = None,
) -> None:
    """Write an adapter in a form that programs without this package can use.

    vllm-patch: the changed entries of the base model's checkpoint, in one safetensors file. merged: the whole model as
    a folder. gguf-ready: the same folder, and the command of llama.cpp that converts it.
    """
    if to not in FORMS:
        raise ValueError(f"--to {to}: choose one of {', '.join(FORMS)}")
    if inverse is not None and to != "vllm-patch":
        raise ValueError(f"--inverse {inverse}: only a patch has an inverse; leave it out, or choose --to vllm-patch")
    progress = sys.stderr.isatty()
    if to == "vllm-patch":
        written = write_patch(adapter, output, inverse=inverse, model=model, progress=progress)
    else:
        written = write_merged(adapter, output, model=model, progress=progress)
    place = printable(str(output))
    typer.echo(f"saved in {place}: {written.entries:,} changed entries in {written.tensors} tensors")
    if to == "gguf-ready":
        typer.echo(f"with llama.cpp: python convert_hf_to_gguf.py {place} --outfile {place}.gguf")
