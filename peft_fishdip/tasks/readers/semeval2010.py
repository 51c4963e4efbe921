"""SemEval-2010 task 8 (Hendrickx et al., 2010): a sentence with <e1> and <e2>, its relation and a comment, on lines."""

from __future__ import annotations

import re

from ..records import RelationExample, Span
from ..splitting import tokens_and_spans
from .common import DataFormatError, StrPath, is_blank, read_lines, warn_without

_SENTENCE = re.compile(r"(\d+)\s+(\S.*)")
_LABEL = re.compile(r"[\w-]+(?:\(e[12],e[12]\))?")
_TAG = re.compile(r"</?e[12]>")


def read_semeval2010(path: StrPath, *, encoding: str = "utf-8") -> list[RelationExample]:
    """e1 is the head and e2 the tail, and the label has its direction, as "Cause-Effect(e2,e1)".

    The direction belongs to the label because it is part of what is to be found out. In the test file without labels,
    the label is None.
    """
    examples: list[RelationExample] = []
    block: list[tuple[int, str]] = []
    for number, line in (*read_lines(path, encoding), (0, "")):
        if number and not is_blank(line) and not (block and _is_sentence(line)):
            block.append((number, line))
            continue
        if block:
            examples.append(_example(block, path))
        block = [] if is_blank(line) else [(number, line)]
    warn_without("relation", examples, any(example.label for example in examples), path)
    return examples


def _is_sentence(line: str) -> bool:
    return _SENTENCE.fullmatch(line.strip()) is not None and "<e1>" in line


def _example(block: list[tuple[int, str]], path: StrPath) -> RelationExample:
    number, line = block[0]
    match = _SENTENCE.fullmatch(line.strip())
    if match is None:
        raise DataFormatError(path, number, "a number, a tab, and a sentence in quotes", line)
    text = match[2].removeprefix('"').removesuffix('"')
    places: dict[str, int] = {}
    plain, done = "", 0
    for tag in _TAG.finditer(text):
        plain += text[done : tag.start()]
        done = tag.end()
        if tag[0] in places:
            raise DataFormatError(path, number, f"{tag[0]} once in the sentence", line)
        places[tag[0]] = len(plain)
    plain += text[done:]
    spans = []
    for name in ("e1", "e2"):
        start, end = places.get(f"<{name}>", -1), places.get(f"</{name}>", -1)
        words = plain[start:end] if 0 <= start < end else ""
        if not words.strip():
            raise DataFormatError(path, number, f"words between <{name}> and </{name}>", line)
        start += len(words) - len(words.lstrip())
        spans.append(Span(start, start + len(words.strip()), name))
    tokens, _, (head, tail) = tokens_and_spans(plain, spans)
    label = None
    if len(block) > 1 and not block[1][1].startswith("Comment"):
        label = block[1][1].strip()
        if not _LABEL.fullmatch(label):
            raise DataFormatError(path, block[1][0], "a relation such as Cause-Effect(e1,e2) or Other", label)
    head, tail = (Span(span.start, span.end) for span in (head, tail))
    return RelationExample(tokens, head, tail, label, match[1], plain)
