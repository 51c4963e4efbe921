"""The name of a file to write, checked before any work is done."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def check_output(output: Path, inputs: Iterable[Path], *, is_folder: bool = False) -> None:
    """Refuse a name that no file can have, and that of an input; if a folder is to be written, one that is in use.

    Raises:
        ValueError: the folder that it stands in is not there, it is a folder itself, or it is one of the inputs; or the
            folder to write is there and not empty.
    """
    if not output.parent.is_dir():
        raise ValueError(f"{output}: there is no folder {output.parent}; create it first")
    if is_folder:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise ValueError(f"{output} exists and is no empty folder; give the name of a new folder")
        return
    if output.is_dir():
        raise ValueError(f"{output} is a folder; give the name of a file in it, such as {output / 'out'}")
    if output.exists() and any(path.exists() and output.samefile(path) for path in inputs):
        raise ValueError(f"{output} is the input; give the output another name")
