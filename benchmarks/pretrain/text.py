"""Text files, plain or xz: one paragraph or sentence per line; and sentences in them."""

from __future__ import annotations

import lzma
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from ..settings import SettingsError

BREAK = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])")


def read_lines(paths: Sequence[Path]) -> Iterator[str]:
    """The lines of the files that are not empty, without white space around them, one file after the other.

    Raises:
        SettingsError: a file is not there, is not what its name says, or is not UTF-8.
    """
    for path in paths:
        yield from read_file(path)


def read_file(path: Path) -> Iterator[str]:
    number = 0
    try:
        with lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):  # noqa: B007
                if text := line.decode("utf-8").strip():
                    yield text
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}, line {number} is not UTF-8: {error}") from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error


def sentences(line: str) -> list[str]:
    """A line cut after `.`, `!` or `?` where a capital or a digit follows.

    It cuts after `Dr.`, too: here a piece of text that is copied as a whole need not be a sentence of grammar. Joined
    by spaces the sentences are the line, up to the white space between them.
    """
    cuts = [0, *(match.end() for match in BREAK.finditer(line)), len(line)]
    return [line[a:b].strip() for a, b in pairwise(cuts)]


def sample(lines: Iterable[str], count: int, seed: int) -> list[str]:
    """`count` lines drawn uniformly (Vitter 1985, algorithm R), all if there are fewer; same seed, same lines."""
    rng = random.Random(seed)
    kept: list[str] = []
    for number, line in enumerate(lines):
        if number < count:
            kept.append(line)
        elif (place := rng.randrange(number + 1)) < count:
            kept[place] = line
    return kept
