"""Plain text that no method trains on: what a model was good at before it was fine-tuned."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data_sets import Loaded
from .problems import limited
from .settings import SettingsError

MOST_TEXTS = 64
"""So many texts are read, where nothing else is asked for."""
MOST_TOKENS = 128
"""The rest of a text is not read."""


@dataclass(frozen=True)
class PlainText:
    """Texts and where they are from."""

    texts: tuple[str, ...]
    origin: str
    reason: str = ""
    """Why there are none."""

    @property
    def digest(self) -> str:
        """Tells texts from others."""
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()[:16]


def from_file(path: Path, most: int | None = None) -> PlainText:
    """The lines of a file that are not blank; of too many, some that are drawn, the same each time.

    Raises:
        SettingsError: it cannot be read as UTF-8, or has no text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"--plain-text {path} cannot be read: {error}; give a UTF-8 file, one text a line"
        ) from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise SettingsError(f"--plain-text {path} has no text; give a file with one text a line")
    return PlainText(drawn(texts, most), path.name)


def from_test_part(loaded: Loaded, most: int | None = None) -> PlainText:
    """Sentences and dialogues of the test part, without brackets, but for those that the training part has, too."""
    seen = {words_of(example) for example in loaded.train}
    texts = [text for text in dict.fromkeys(map(words_of, loaded.test)) if text not in seen]
    origin = "test sentences of the data set"
    if not texts:
        return PlainText((), origin, "each test sentence is a training sentence, too; name a file with --plain-text")
    return PlainText(drawn(texts, most), origin)


def drawn(texts: Sequence[str], most: int | None) -> tuple[str, ...]:
    return tuple(limited(texts, MOST_TEXTS if most is None else most))


def words_of(example: Any) -> str:
    """A sentence, or the turns of a dialogue, without any mark."""
    if hasattr(example, "turns"):
        return " ".join(turn.text for turn in example.turns)
    return " ".join(example.tokens)
