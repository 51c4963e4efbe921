"""Escaping of the format's own characters, comparison after normalisation, and a tokeniser for raw sentences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

SPECIAL = "[]|="
_ENTITIES = {"[": "lsqb", "]": "rsqb", "|": "vert", "=": "equals", ",": "comma"}
# Many tokenizers apply the normal form NFKC, which makes these characters those of the format.
_COMPATIBLE = {
    "[": "\ufe47\uff3b",
    "]": "\ufe48\uff3d",
    "|": "\uff5c",
    "=": "\u207c\u208c\u2a74\u2a75\u2a76\ufe66\uff1d",
    ",": "\ufe10\ufe50\uff0c\U0001f101\U0001f102\U0001f103\U0001f104\U0001f105\U0001f106\U0001f107\U0001f108"
    "\U0001f109\U0001f10a",
}
_NAMES = _ENTITIES | {c: f"#{ord(c)}" for characters in _COMPATIBLE.values() for c in characters}
_CHARACTERS = {name: character for character, name in _NAMES.items()}
_ESCAPED = re.compile(rf"&((?:amp;)*)({'|'.join(_CHARACTERS)});")
_TO_ESCAPE = {
    special: re.compile(rf"[{re.escape(special + ''.join(map(_COMPATIBLE.__getitem__, special)))}]|{_ESCAPED.pattern}")
    for special in (SPECIAL, SPECIAL + ",")
}


def escape(text: str, special: str = SPECIAL) -> str:
    """Replace each character of `special` by its HTML character reference: `[` becomes `&lsqb;`.

    The output formats use `[ ] | =` as structure, and the reference implementation breaks on text that
    holds them. HTML's names are made of pieces that every T5 vocabulary has. Characters that tokenizers take for
    these (such as the full-width `［`) become numeric references. Text without all these characters
    stays as it is, `&` and `&amp;` included; only text that already reads `&lsqb;` gets one more `amp;`,
    so that `unescape(escape(text)) == text` for every text.
    """

    def replace(match: re.Match[str]) -> str:
        found = match.group()
        return f"&{_NAMES[found]};" if len(found) == 1 else "&amp;" + found[1:]

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


def normalize(text: str) -> str:
    """Text as a tokenizer may write it: in the normal form NFKC, with single spaces."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).split())


def fold(text: str) -> str:
    """Text for comparison: normalised and without spaces."""
    return normalize(text).replace(" ", "")


def reads_apart(word: str, place: int) -> bool:
    """Whether a word that is cut at a place still reads as before, so that a bracket may begin or end there."""
    if word.isascii() and "&" not in word:
        return 0 < place < len(word)
    head, tail = fold(escape(word[:place])), fold(escape(word[place:]))
    return bool(head and tail) and head + tail == fold(escape(word))


_CLITICS = "(?:s|m|d|re|ve|ll)"
_CLITIC = re.compile(rf"(?i:n['’＇ʼ]t|['’＇ʼ]{_CLITICS})$")
_ELIDED = re.compile(
    r"(?i:[cdjlmnst]|qu|jusqu|lorsqu|puisqu|quoiqu|un|all|dall|dell|nell|sull|coll|quell|bell|gl|agl|degl|dagl|negl|sugl)"
    r"['’＇](?=\w)"
)


@cache
def _token() -> re.Pattern[str]:
    """What a token is, before clitics are split off. Made at first use, since it looks at every combining mark."""
    codes = (*range(0x300, 0x1EA00), *range(0xE0100, 0xE01F0))
    marks = "".join(chr(code) for code in codes if unicodedata.category(chr(code)).startswith("M"))
    mark = rf"[{marks}\u00ad\u200c\u200d\u2060\U0001f3fb-\U0001f3ff]"
    unspaced = "\u3005-\u3007\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    katakana = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
    letter = rf"(?:(?![{unspaced}{katakana}])\w{mark}*)"
    digits = rf"(?:\d{mark}*)+"
    joint = "(?:['’＇.·\u2010\u2011-]|(?<=[\u05d0-\u05ea])[\"\u05f3\u05f4](?=[\u05d0-\u05ea])|\u05be)"
    return re.compile(
        rf"{digits}(?:[.,:]{digits})*"
        rf"|[{unspaced}]{mark}*"
        rf"|(?:[{katakana}]{mark}*)+"
        rf"|{letter}+(?:{joint}{letter}+)*"
        rf"|(?<=\S)['’＇](?i:{_CLITICS})\b"
        r"|\.\.\."
        r"|[\U0001f1e6-\U0001f1ff]{2}"
        rf"|[^\w\s]{mark}*(?:(?<=\u200d)[^\w\s]{mark}*)*"
        rf"|\w{mark}*"
    )


def token_ranges(text: str) -> list[tuple[int, int]]:
    """Where the tokens of a raw sentence begin and end; see `tokenize`."""
    ranges = []
    for match in _token().finditer(text):
        start, end = match.span()
        cuts = [end]
        while clitic := _CLITIC.search(text, start + 1, cuts[-1]):
            cuts.append(clitic.start())
        if elided := _ELIDED.match(text, start, cuts[-1]):
            cuts.append(elided.end())
        for cut in reversed(cuts):
            ranges.append((start, cut))
            start = cut
    return ranges


def tokenize(text: str) -> tuple[str, ...]:
    """Split a raw sentence into words, numbers and punctuation marks, as news corpora are tokenised.

    Possessives and clitics are tokens (Ann 's, did n't, l' Aquila); letters keep their combining marks; each Chinese
    character, each hiragana and each run of katakana is a token, since these are written without spaces.
    For languages or conventions that need more, tokenise first and pass token lists instead.
    """
    return tuple(text[start:end] for start, end in token_ranges(text))


def find_normalized(value: str, text: str) -> str | None:
    """The part of a raw text that reads as `value` after normalisation, as it is written there."""
    ranges = token_ranges(text)
    folded = [fold(text[start:end]) for start, end in ranges]
    wanted = fold(value)
    for first, (start, _) in enumerate(ranges):
        read = ""
        for last in range(first, len(ranges)):
            read += folded[last]
            part = text[start : ranges[last][1]]
            if read == wanted and normalize(part) == normalize(value):
                return part
            if not wanted.startswith(read):
                break
    return None
