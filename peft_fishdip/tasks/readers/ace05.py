"""ACE 2005 entities and relations in DyGIE's JSON lines (Wadden et al., 2019): one document per line."""

from __future__ import annotations

from typing import Any

from ..records import JointExample, Relation, Span
from .common import DataFormatError, StrPath, get, get_texts, is_blank, parse_json, read_lines, warn_without


def read_ace05(path: StrPath, *, reference: bool = False, encoding: str = "utf-8") -> list[JointExample]:
    """Sentences of all documents; positions in the file count through the document, ends inclusive.

    A relation argument whose span has several types gets the first. `reference=True` drops such sentences
    and those without entities, as the reference does in every split, test included; scores on what is left
    do not compare with those on all sentences.
    """
    examples: list[JointExample] = []
    for number, line in read_lines(path, encoding):
        if not is_blank(line):
            examples += _document(parse_json(line, path, number), path, number, reference)
    warn_without("entity", examples, any(example.spans for example in examples), path)
    return examples


def _document(document: Any, path: StrPath, line: int, reference: bool) -> list[JointExample]:
    place = f"line {line}"
    sentences = get(document, "sentences", list, path, place)
    columns = []
    for key in ("ner", "relations"):
        columns.append(get(document, key, list, path, place) if key in document else [[] for _ in sentences])
        if len(columns[-1]) != len(sentences):
            raise DataFormatError(
                path, line, f"{len(sentences)} lists under {key!r}, one per sentence", len(columns[-1])
            )
    examples = []
    offset = 0
    for number, values in enumerate(zip(sentences, *columns, strict=True)):
        where = f"line {line}, sentence {number}"
        item = dict(zip(("sentences", "ner", "relations"), values, strict=True))
        tokens = get_texts(item, "sentences", path, where)
        entities, relations = (get(item, key, list, path, where) for key in ("ner", "relations"))
        types: dict[tuple[int, int], list[Span]] = {}
        for entity in entities:
            start, end, label = _checked(entity, "iis", offset, len(tokens), path, where)
            types.setdefault((start, end), []).append(Span(start, end, label))
        found = []
        ambiguous = False
        for relation in relations:
            *ends, label = _checked(relation, "iiiis", offset, len(tokens), path, where)
            pair = [types.get((ends[0], ends[1])), types.get((ends[2], ends[3]))]
            if pair[0] is None or pair[1] is None:
                raise DataFormatError(path, where, "both arguments among the entities under 'ner'", relation)
            ambiguous |= len(pair[0]) > 1 or len(pair[1]) > 1
            found.append(Relation(pair[0][0], pair[1][0], label))
        offset += len(tokens)
        if reference and (ambiguous or not entities):
            continue
        spans = tuple(span for group in types.values() for span in group)
        name = f"{document.get('doc_key', line)}:{number}"
        examples.append(JointExample(tokens, spans, tuple(found), name))
    return examples


def _checked(item: Any, kinds: str, offset: int, length: int, path: StrPath, where: str) -> list[Any]:
    """Entry with positions relative to the sentence and exclusive ends."""
    fits = isinstance(item, list) and len(item) == len(kinds)
    fits = fits and all(isinstance(x, int if k == "i" else str) for x, k in zip(item, kinds, strict=True))
    if fits:
        numbers = [x - offset + i % 2 for i, x in enumerate(item[:-1])]
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        if all(0 <= start < end <= length for start, end in pairs):
            return [*numbers, item[-1]]
    shape = "[start, end, label]" if len(kinds) == 3 else "[start, end, start, end, label]"
    bounds = f"{offset} and {offset + length - 1}"
    raise DataFormatError(path, where, f"{shape} with positions between {bounds}", item)
