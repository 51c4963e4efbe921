"""Checks of what users pass to the functions of the tasks: the message names the argument, its value and the remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from numbers import Integral
from pathlib import Path
from typing import Any

LONGEST = 80
"""Characters of a value in a message."""
_SURROGATE = re.compile("[\ud800-\udfff]")
OF_A_ROW = "; of a row of a data set, pass row['text']"
"""What to do with a dict in place of a text."""


def shown(value: object) -> str:
    """A value in a message, on one line, and cut where it is long."""
    text = " ".join(part.strip() for part in repr(value).splitlines())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def as_path(path: object, name: str = "path", what: str = "the name of a file") -> Path:
    """The path of a file or folder; TypeError for what names none."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name}={shown(path)}: give {what}, as a text or a pathlib.Path")
    return Path(path)


def check_flags(**flags: object) -> None:
    """Raise TypeError for arguments that are neither True nor False: a text such as "no" would count as True."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name}={shown(value)}: give True or False")


def check_positive(**values: object) -> None:
    """Refuse sizes and counts that are no whole numbers (TypeError), or below 1 (ValueError)."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name}={shown(value)}: give a whole number, at least 1")
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")


def check_items(name: str, value: object, what: str) -> None:
    """Raise TypeError for what holds no items, or is a text or a dict, of which characters or keys would be read."""
    if isinstance(value, Mapping):
        raise TypeError(f"{name}={shown(value)}: this is a dict; give {what}{OF_A_ROW}")
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name}={shown(value)}: give {what}")


def check_lists(**lists: object) -> None:
    """Raise TypeError for arguments that are no lists or other sequences with a length."""
    for name, value in lists.items():
        listed = isinstance(value, Sized) and isinstance(value, Iterable)
        if isinstance(value, (str, bytes, Mapping)) or not listed:
            raise TypeError(f"{name}={shown(value)}: give a list, with one entry for each example")


def check_unicode(name: str, texts: Iterable[str]) -> None:
    """Raise ValueError for a text with half of a character of UTF-16, which tokenizers cannot read."""
    for number, text in enumerate(texts):
        if found := _SURROGATE.search(text):
            part = shown(text[max(found.start() - 10, 0) :])
            raise ValueError(
                f"{name}[{number}]: {part} has the single surrogate {found[0]!r} at {found.start()}, half "
                "of a UTF-16 character, which no tokenizer reads; leave it out, or join it with its other half: "
                "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            )


def check_is_task(task: Any) -> None:
    """Raise TypeError for what is no task."""
    if isinstance(task, type) or not all(hasattr(task, name) for name in ("example_type", "source", "decode")):
        raise TypeError(f"task={shown(task)}: give a task, such as NerTask({{'PER': 'person'}})")


def check_is_tokenizer(tokenizer: Any) -> None:
    """Raise TypeError for what is no tokenizer."""
    known = any(hasattr(tokenizer, name) for name in ("pad_token_id", "eos_token_id"))
    if isinstance(tokenizer, type) or not callable(tokenizer) or not known:
        raise TypeError(
            f"tokenizer={shown(tokenizer)}: give the tokenizer of the model, such as the one that load_model returns"
        )


def check_records(name: str, records: Sequence[Any], kind: type) -> None:
    """Raise TypeError for an entry that is none of a kind."""
    for number, record in enumerate(records):
        if not isinstance(record, kind):
            raise TypeError(f"{name}[{number}]={shown(record)}: must be a {kind.__name__}")
