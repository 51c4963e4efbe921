"""Two-way map between the labels of a data set and the words the model reads and writes for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from .text import SPECIAL, fold, normalize

_STRUCTURE = re.compile(r"[][|=]")


class Labels:
    """Labels and their natural names, e.g. {"Loc": "location", "Peop": "person"}.

    A sequence of labels stands for labels that are their own names. Raises ValueError for a name that the
    format cannot carry or that two labels share, and for no label at all unless `may_be_empty`; TypeError for what is
    no collection.
    """

    def __init__(
        self, labels: Mapping[str, str] | Iterable[str], what: str = "label", *, may_be_empty: bool = False
    ) -> None:
        if isinstance(labels, str):
            raise ValueError(f"{what}s: got the text {labels!r}; pass a list or a mapping from label to name")
        if not isinstance(labels, Iterable):
            raise TypeError(f"{what}s: got {labels!r}; pass a list or a mapping from label to name")
        names = dict(labels) if isinstance(labels, Mapping) else {label: label for label in labels}
        if not names and not may_be_empty:
            raise ValueError(
                f"{what}s={labels!r}: there is none, so that nothing could be found; pass a list or a mapping from "
                "label to name"
            )
        self.what = what
        self.names: dict[str, str] = names
        self._labels: dict[str, str] = {}
        for label, name in names.items():
            if (
                not isinstance(name, str)
                or not name
                or name != " ".join(name.split())
                or any(c in SPECIAL for c in normalize(name))
            ):
                raise ValueError(
                    f"{what} {label!r}: its name {name!r} must be words separated by single spaces, without "
                    f"any of {' '.join(SPECIAL)}; pass a mapping from label to such a name"
                )
            if name in self._labels:
                raise ValueError(
                    f"{what}s {self._labels[name]!r} and {label!r} have the same name {name!r}; "
                    "give each its own, or one of the two would be lost when reading back"
                )
            self._labels[name] = label
        self._folded: dict[str, list[str]] = {}
        for name, label in self._labels.items():
            self._folded.setdefault(fold(name), []).append(label)

    def name(self, label: str) -> str:
        """Natural name of a label; ValueError names the known ones."""
        if not label:
            known = ", ".join(map(repr, self.names))
            raise ValueError(f"the {self.what} is missing: the label is {label!r}; give one of {known}")
        if label not in self.names:
            raise ValueError(f"unknown {self.what} {label!r}; this task knows {', '.join(map(repr, self.names))}")
        return self.names[label]

    def label(self, name: str) -> str | None:
        """Label with this natural name, or None; a name may be written as a tokenizer normalises it."""
        if name in self._labels:
            return self._labels[name]
        found = self._folded.get(fold(name), ())
        return found[0] if len(found) == 1 else None

    def check(self, write: Callable[[str], str], form: str = "[ x | {} ]") -> None:
        """Refuse names that a tokenizer changes so that they cannot be read back.

        `write` gives a text as it comes out of the tokenizer's pieces; `form` is where the task writes a name.
        """
        place = _STRUCTURE.split(form).index(" {} ")
        for label, name in self.names.items():
            text = form.format(name).strip()
            written = write(text)
            parts = _STRUCTURE.split(written)
            if len(parts) != len(_STRUCTURE.split(form)) or self.label(" ".join(parts[place].split())) != label:
                raise ValueError(
                    f"{self.what} {label!r}: the tokenizer writes {text!r} as {written!r}, so that the name {name!r} "
                    "cannot be read back; pass a mapping from label to a name that this tokenizer keeps"
                )

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        return f"Labels({self.names!r})"
