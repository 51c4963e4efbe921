"""Plain text that no method trains on: what a model was good at before it was fine-tuned."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from .problems import limited
from .settings import SettingsError

DEFAULT = Path(__file__).with_suffix(".txt")
"""English sentences on many subjects, written for this purpose, so that no model has seen them."""
MOST_TEXTS = 64
"""So many texts are read, where nothing else is asked for."""
MOST_TOKENS = 128
"""The rest of a text is not read."""


@dataclass(frozen=True)
class PlainText:
    """Texts and the name of the file that they are from."""

    texts: tuple[str, ...]
    origin: str

    @property
    def digest(self) -> str:
        """Tells texts from others."""
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()[:16]


def read_plain_text(path: Path | None = None, most: int | None = None) -> PlainText:
    """The lines of a file that are not blank; of too many, some that are drawn, the same each time.

    Raises:
        SettingsError: it cannot be read as UTF-8, or has no text.
    """
    path = path or DEFAULT
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--plain-text {path} cannot be read: {error}; give a text file in UTF-8") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise SettingsError(f"--plain-text {path} has no text; give a file with one text a line")
    return PlainText(tuple(limited(texts, MOST_TEXTS if most is None else most)), path.name)
