"""Two-way map between the labels of a data set and the words the model reads and writes for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .text import SPECIAL


class Labels:
    """Labels and their natural names, e.g. {"Loc": "location", "Peop": "person"}.

    A sequence of labels stands for labels that are their own names. Raises ValueError for a name that the
    format cannot carry or that two labels share.
    """

    def __init__(self, labels: Mapping[str, str] | Iterable[str], what: str = "label") -> None:
        if isinstance(labels, str):
            raise ValueError(f"{what}s: got the text {labels!r}; pass a list or a mapping from label to name")
        names = dict(labels) if isinstance(labels, Mapping) else {label: label for label in labels}
        self.what = what
        self.names: dict[str, str] = names
        self._labels: dict[str, str] = {}
        for label, name in names.items():
            if (
                not isinstance(name, str)
                or not name
                or name != " ".join(name.split())
                or any(c in SPECIAL for c in name)
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

    def name(self, label: str) -> str:
        """Natural name of a label; ValueError names the known ones."""
        if label not in self.names:
            raise ValueError(f"unknown {self.what} {label!r}; this task knows {', '.join(map(repr, self.names))}")
        return self.names[label]

    def label(self, name: str) -> str | None:
        """Label with this natural name, or None."""
        return self._labels.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        return f"Labels({self.names!r})"
