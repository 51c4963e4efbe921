"""CoNLL04 (Roth and Yih, 2004): entities and relations, in the two JSON versions in use."""

from __future__ import annotations

from pathlib import Path

from ..records import JointExample, Relation, Span
from ..tagging import TagError, tags_to_spans
from .common import DataFormatError, StrPath, get, get_texts, read_json, warn_without


def read_conll04(path: StrPath, *, encoding: str = "utf-8") -> list[JointExample]:
    """Read SpERT's JSON (`entities` with type, start, end) or the one with BILOU `tags`.

    Relations name head and tail by position in the list of entities, in both. The id is `orig_id` where the
    file has one.
    """
    data = read_json(path, encoding)
    if not isinstance(data, list):
        raise DataFormatError(path, "top level", "a list of sentences", type(data).__name__)
    examples = [_example(item, path, number) for number, item in enumerate(data)]
    warn_without("entity", examples, any(example.spans for example in examples), path)
    return examples


def _example(item: object, path: StrPath, number: int) -> JointExample:
    where = f"item {number}"
    tokens = get_texts(item, "tokens", path, where)
    assert isinstance(item, dict)
    spans = _spans(item, len(tokens), path, where)
    relations = []
    for relation in get(item, "relations", list, path, where):
        label = get(relation, "type", str, path, where)
        ends = [get(relation, end, int, path, where) for end in ("head", "tail")]
        if not all(0 <= end < len(spans) for end in ends):
            raise DataFormatError(path, where, f"head and tail below the number of entities, {len(spans)}", relation)
        relations.append(Relation(spans[ends[0]], spans[ends[1]], label))
    name = str(item.get("orig_id", f"{Path(path).name}:{number}"))
    return JointExample(tokens, tuple(spans), tuple(relations), name)


def _spans(item: dict[str, object], length: int, path: StrPath, where: str) -> list[Span]:
    if "entities" in item:
        spans = []
        for entity in get(item, "entities", list, path, where):
            start, end = (get(entity, key, int, path, where) for key in ("start", "end"))
            if not 0 <= start < end <= length:
                raise DataFormatError(path, where, f"0 <= start < end <= {length}", entity)
            spans.append(Span(start, end, get(entity, "type", str, path, where)))
        return spans
    tags = get(item, "tags", list, path, where)
    if len(tags) != length:
        raise DataFormatError(path, where, f"{length} tags, one per token", len(tags))
    try:
        return tags_to_spans(tags, "bilou")
    except TagError as error:
        raise DataFormatError(path, f"{where}, token {error.position}", error.expected, error.found) from None
