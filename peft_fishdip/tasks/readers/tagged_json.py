"""Lists of tokens and of tags in JSON, as data sets on the Hugging Face Hub have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..records import NerExample
from ..tagging import TagError, named_tags, tags_to_spans
from .common import DataFormatError, StrPath, get, get_texts, id_of, read_json_records, warn_without


def read_tagged_json(
    path: StrPath,
    *,
    tokens: str = "tokens",
    tags: str = "ner_tags",
    scheme: str = "conll",
    names: Sequence[str] = (),
    encoding: str = "utf-8",
) -> list[NerExample]:
    """Read JSON lines, or a list, of objects with `tokens` and `tags`.

    Tags are texts, or numbers whose tags `names` lists; `scheme` is as in `read_conll`.
    """
    examples: list[NerExample] = []
    for where, item in read_json_records(path, encoding):
        words = get_texts(item, tokens, path, where)
        values = get(item, tags, list, path, where)
        if len(values) != len(words):
            raise DataFormatError(path, where, f"{len(words)} tags, one per token", len(values))
        try:
            spans = tags_to_spans(named_tags(values, names), scheme)
        except TagError as error:
            raise DataFormatError(path, f"{where}, token {error.position}", error.expected, error.found) from None
        name = id_of(item, f"{Path(path).name}:{len(examples)}")
        examples.append(NerExample(words, tuple(spans), name))
    warn_without("entity", examples, any(example.spans for example in examples), path)
    return examples
