"""Natural words for the labels of a data set, which a model reads and writes better than abbreviations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import regex

from ..tasks.text import SPECIAL, fold

_SEPARATORS = regex.compile(rf"[\s_\-/.:{regex.escape(''.join(SPECIAL))}]+")
_HUMPS = regex.compile(r"(?<=[\p{Ll}\p{N}])(?=\p{Lu})|(?<=\p{Lu})(?=\p{Lu}\p{Ll})")


def natural_names(labels: Iterable[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """A name for each label: the given one, or its words in lower case; names that would be equal get a number.

    `Work_For` and `WorkFor` become "work for". Sorted by label.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    given = given or {}
    for label in sorted(labels, key=lambda label: (label not in given, label)):
        name = given.get(label) or _words(label)
        number = 1
        while label not in given and fold(name if number == 1 else f"{name} {number}") in taken:
            number += 1
        names[label] = name if number == 1 else f"{name} {number}"
        taken.add(fold(names[label]))
    return dict(sorted(names.items()))


def _words(label: str) -> str:
    parts = _SEPARATORS.split(_HUMPS.sub(" ", label))
    return " ".join(part.lower() for part in parts if part) or "label"
