"""Tag sequences (IOB1, BIO, IOBES, BILOU) and spans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .records import Span

SCHEMES = ("conll", "iob1", "bio", "iobes", "bilou")


class TagError(ValueError):
    """Tag number `position` does not fit."""

    def __init__(self, position: int, expected: str, found: object) -> None:
        super().__init__(f"tag {position}: expected {expected}, found {found!r}")
        self.position, self.expected, self.found = position, expected, found


_PREFIXES = {"conll": "BIESLU", "iob1": "BI", "bio": "BI", "iobes": "BIES", "bilou": "BILU"}


def tags_to_spans(tags: Sequence[str], scheme: str = "conll") -> list[Span]:
    """Spans of a tag sequence.

    The scheme "conll" reads any mixture the way CoNLL's conlleval script does: an I- that continues nothing
    starts a span. The others are strict: a tag that the scheme does not allow there raises TagError.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme={scheme!r}: choose one of {', '.join(SCHEMES)}")
    spans: list[Span] = []
    start, label = 0, ""  # label "" = no span is open
    for position, tag in enumerate((*tags, "O")):
        prefix, _, kind = tag.partition("-") if isinstance(tag, str) else ("", "", "")
        if tag != "O" and (len(prefix) != 1 or prefix not in _PREFIXES[scheme] or not kind):
            raise TagError(position, f"O or one of {'-, '.join(_PREFIXES[scheme])}- with a label", tag)
        goes_on = bool(label) and prefix in "IEL" and kind == label
        if scheme in ("bio", "iobes", "bilou") and prefix in "IEL" and not goes_on:
            raise TagError(position, f"a span of {kind!r} to be open before {prefix}-", tag)
        if scheme in ("iobes", "bilou") and label and not goes_on:
            raise TagError(position, f"the span of {label!r} to go on", tag)
        if scheme == "iob1" and prefix == "B" and kind != label:
            raise TagError(position, f"B- only between two adjacent spans of {kind!r}", tag)
        if label and not goes_on:
            spans.append(Span(start, position, label))
            label = ""
        if tag != "O" and not goes_on:
            start, label = position, kind
        if prefix in "ELSU":
            spans.append(Span(start, position + 1, label))
            label = ""
    return spans


def spans_to_tags(spans: Iterable[Span], length: int) -> list[str]:
    """BIO tags of spans that do not overlap; ValueError where they do."""
    tags = ["O"] * length
    for span in spans:
        if span.end > length:
            raise ValueError(f"{span} ends after the last of the {length} tokens")
        if any(tag != "O" for tag in tags[span.start : span.end]):
            raise ValueError(f"{span} overlaps another span; BIO tags hold flat spans only")
        tags[span.start : span.end] = [f"B-{span.label}"] + [f"I-{span.label}"] * (span.end - span.start - 1)
    return tags
