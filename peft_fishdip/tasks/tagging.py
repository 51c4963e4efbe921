"""Tag sequences (IOB1, BIO, IOBES, BILOU, BMES, IO) and spans."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from .checks import check_items, check_records
from .records import Span

SCHEMES = ("conll", "iob1", "bio", "iobes", "bilou", "bmes", "io")
NO_TYPE = "entity"
"""The label of tags without one, such as B and I."""


class TagError(ValueError):
    """Tag number `position` does not fit."""

    def __init__(self, position: int, expected: str, found: object) -> None:
        super().__init__(f"tag {position}: expected {expected}, found {found!r}")
        self.position, self.expected, self.found = position, expected, found


_PREFIXES = {"conll": "BIESLUM", "iob1": "BI", "bio": "BI", "iobes": "BIES", "bilou": "BILU", "bmes": "BMES"}
_SEVERAL = re.compile(r"\||[,;+/#&](?:[BIESLUM]-|O$)|\s[BIESLUM]-[^\W\d]")
_SEVERAL_LABELS = re.compile(r"[|,;]")


def _split(tag: object, scheme: str) -> tuple[str, str] | None:
    """Prefix and label of a tag of the scheme, ("", "") for O, None for anything else."""
    if not isinstance(tag, str) or not tag:
        return None
    if tag == "O":
        return "", ""
    if scheme == "io":
        return None if _SEVERAL_LABELS.search(tag) else ("I", tag.removeprefix("I-"))
    prefix, dash, label = tag.partition("-")
    if len(prefix) != 1 or prefix not in _PREFIXES[scheme] or (dash and not label) or _SEVERAL.search(label):
        return None
    return prefix, label if dash else NO_TYPE


def is_tag(tag: object, scheme: str = "conll") -> bool:
    """Is `tag` one of the scheme's tags? ValueError for a scheme that is none of `SCHEMES`."""
    _check_scheme(scheme)
    return _split(tag, scheme) is not None


def _check_scheme(scheme: object) -> None:
    if scheme not in SCHEMES:
        raise ValueError(f"scheme={scheme!r}: choose one of {', '.join(SCHEMES)}")


def tags_to_spans(tags: Sequence[str], scheme: str = "conll") -> list[Span]:
    """Spans of a tag sequence.

    The scheme "conll" reads any mixture the way CoNLL's conlleval script does: an I- that continues nothing
    starts a span; the M- of BMES reads as I-. "io" takes every tag but O for a label, with or without I-; adjacent
    equal labels are one span. The others are strict: a tag that the scheme does not allow there raises TagError, as
    do several tags in one. Tags without a label (B, I, O) give spans of the label "entity".
    """
    _check_scheme(scheme)
    check_items(
        "tags", tags, "a list of tags, one for each token, such as ['B-PER', 'O']; `split` a text at its spaces"
    )
    spans: list[Span] = []
    start, label = 0, ""  # label "" = no span is open
    for position, tag in enumerate((*tags, "O")):
        parts = _split(tag, scheme)
        if parts is None:
            raise TagError(position, _expected(scheme), tag)
        prefix, kind = parts
        goes_on = bool(label) and prefix in ("I", "M", "E", "L") and kind == label
        if scheme in ("bio", "iobes", "bilou", "bmes") and prefix in ("I", "M", "E", "L") and not goes_on:
            raise TagError(position, f"a span of {kind!r} to be open before {prefix}-", tag)
        if scheme in ("iobes", "bilou", "bmes") and label and not goes_on:
            raise TagError(position, f"the span of {label!r} to go on", tag)
        if scheme == "iob1" and prefix == "B" and kind != label:
            raise TagError(position, f"B- only between two adjacent spans of {kind!r}", tag)
        if label and not goes_on:
            spans.append(Span(start, position, label))
            label = ""
        if prefix and not goes_on:
            start, label = position, kind
        if prefix in ("E", "L", "S", "U"):
            spans.append(Span(start, position + 1, label))
            label = ""
    return spans


def named_tags(tags: Iterable[object], names: Sequence[str]) -> list[str]:
    """Tags where numbers are replaced by their tags in `names`. TagError for a number that has none."""
    found: list[Any] = []
    for position, tag in enumerate(tags):
        if isinstance(tag, Integral) and not isinstance(tag, bool):
            if not 0 <= int(tag) < len(names):
                remedy = "" if names else ": pass names=['O', 'B-PER', ...], in the order of the numbers"
                raise TagError(position, f"a number of the {len(names)} known tags{remedy}", tag)
            tag = names[int(tag)]
        found.append(tag)
    return found


def _expected(scheme: str) -> str:
    if scheme == "io":
        return "O or one label"
    prefixes = "-, ".join(_PREFIXES[scheme])
    return f"O or one of {prefixes}- with a label, one tag per token (labels without prefix: scheme='io')"


def spans_to_tags(spans: Iterable[Span], length: int) -> list[str]:
    """BIO tags of spans that do not overlap; ValueError where they do."""
    check_items("spans", spans, "a list of Span")
    spans = list(spans)
    check_records("spans", spans, Span)
    if not isinstance(length, Integral) or isinstance(length, bool) or length < 0:
        raise TypeError(f"length={length!r}: give the number of tokens")
    tags = ["O"] * length
    for span in spans:
        if span.end > length:
            raise ValueError(f"{span} ends after the last of the {length} tokens")
        if any(tag != "O" for tag in tags[span.start : span.end]):
            raise ValueError(f"{span} overlaps another span; BIO tags hold flat spans only")
        tags[span.start : span.end] = [f"B-{span.label}"] + [f"I-{span.label}"] * (span.end - span.start - 1)
    return tags
