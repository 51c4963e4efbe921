"""Options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Adapter = Annotated[Path, typer.Argument(help="Folder that `fishdip train` has written.")]
Base = Annotated[
    str | None, typer.Option("--model", help="The base model, if it has another place than in the training.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts that are read at once.")]
Lines = Annotated[bool, typer.Option("--lines", help="Each line of a .txt file or of stdin is a text of its own.")]
JsonLines = Annotated[bool, typer.Option("--jsonl", help='stdin is JSON lines with "text" (as files .jsonl are).')]
Encoding = Annotated[str, typer.Option("--encoding", help="Encoding of the files, where it is not UTF-8.")]
