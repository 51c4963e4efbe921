"""Escaping of the format's own characters, and a small tokeniser for raw sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPECIAL = "[]|="
_ENTITIES = {"[": "lsqb", "]": "rsqb", "|": "vert", "=": "equals", ",": "comma"}
_CHARACTERS = {name: character for character, name in _ENTITIES.items()}
_ESCAPED = re.compile(r"&((?:amp;)*)(lsqb|rsqb|vert|equals|comma);")
_TO_ESCAPE = {
    special: re.compile(rf"[{re.escape(special)}]|{_ESCAPED.pattern}") for special in (SPECIAL, SPECIAL + ",")
}
_TOKEN = re.compile(r"\d+(?:[.,:]\d+)*|\w+(?:['’.-]\w+)*|\.\.\.|[^\w\s]")


def escape(text: str, special: str = SPECIAL) -> str:
    """Replace each character of `special` by its HTML character reference: `[` becomes `&lsqb;`.

    The output formats use `[ ] | =` as structure, and the reference implementation breaks on text that
    holds them. HTML's names are made of pieces that every T5 vocabulary has. Text without these characters
    stays as it is, `&` and `&amp;` included; only text that already reads `&lsqb;` gets one more `amp;`,
    so that `unescape(escape(text)) == text` for every text.
    """

    def replace(match: re.Match[str]) -> str:
        found = match.group()
        return f"&{_ENTITIES[found]};" if len(found) == 1 else "&amp;" + found[1:]

    return _TO_ESCAPE[special].sub(replace, text)


def unescape(text: str) -> str:
    """Undo `escape`."""

    def replace(match: re.Match[str]) -> str:
        shields, name = match.groups()
        return "&" + shields[len("amp;") :] + name + ";" if shields else _CHARACTERS[name]

    return _ESCAPED.sub(replace, text)


def sentence(tokens: Iterable[str]) -> str:
    """Tokens as the model reads and writes them: escaped, with one space between words."""
    return " ".join(" ".join(map(escape, tokens)).split())


def tokenize(text: str) -> tuple[str, ...]:
    """Split a raw sentence into words, numbers and punctuation marks, as news corpora are tokenised.

    For languages or conventions that need more, tokenise first and pass token lists instead.
    """
    return tuple(_TOKEN.findall(text))
