"""Records to and from `datasets.Dataset`."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

from datasets import Dataset, Features, Value

from .records import NerExample
from .tagging import TagError, tags_to_spans

E = TypeVar("E")


def to_dataset(examples: Sequence[Any]) -> Dataset:
    """One row per record, one column per field; spans and the like become structs.

    All records must be of one type. `from_dataset` is the inverse.
    """
    if not examples:
        raise ValueError("no examples: the columns follow from the type of the first one")
    kind = type(examples[0])
    for example in examples:
        if type(example) is not kind:
            raise TypeError(f"records of one type expected, got {kind.__name__} and {type(example).__name__}")
    rows = [dataclasses.asdict(example) for example in examples]
    columns = {name: [row[name] for row in rows] for name in _fields(kind)}
    return Dataset.from_dict(columns, features=Features(_feature(kind)))


def from_dataset(dataset: Iterable[dict[str, Any]], kind: type[E]) -> list[E]:
    """Records of type `kind` from the rows of `to_dataset`; further columns are ignored."""
    return [_record(kind, row) for row in dataset]


def from_tagged_dataset(
    dataset: Dataset, *, tokens: str = "tokens", tags: str = "ner_tags", scheme: str = "conll"
) -> list[NerExample]:
    """NER examples from columns of tokens and BIO tags, the usual layout on the Hugging Face Hub.

    Tags are texts or class labels. Raises ValueError with the row for tags that do not fit.
    """
    for column in (tokens, tags):
        if column not in dataset.column_names:
            raise ValueError(f"no column {column!r}; the data set has {', '.join(dataset.column_names)}")
    feature = dataset.features[tags]
    feature = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    names = getattr(feature, "names", None)
    examples = []
    for number, row in enumerate(dataset):
        values = [names[tag] if names else tag for tag in row[tags]]
        if len(values) != len(row[tokens]):
            raise ValueError(f"row {number}: {len(row[tokens])} tokens but {len(values)} tags")
        try:
            spans = tags_to_spans(values, scheme)
        except TagError as error:
            raise ValueError(f"row {number}: {error}") from None
        examples.append(NerExample(tuple(row[tokens]), tuple(spans), str(row.get("id", number))))
    return examples


@cache
def _fields(kind: Any) -> dict[str, Any]:
    """Type of each field of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _feature(kind: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return {name: _feature(hint) for name, hint in _fields(kind).items()}
    if typing.get_origin(kind) is tuple:
        return [_feature(typing.get_args(kind)[0])]
    return Value({str: "string", int: "int64", float: "float64", bool: "bool"}[_plain(kind)])


def _record(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        fields = _fields(kind).items()
        return kind(**{name: _record(hint, value[name]) for name, hint in fields})  # type: ignore[operator]
    if typing.get_origin(kind) is tuple:
        return tuple(_record(typing.get_args(kind)[0], item) for item in value)
    return value


def _plain(kind: Any) -> Any:
    """X of `X | None`."""
    if isinstance(kind, types.UnionType):
        return next(arm for arm in typing.get_args(kind) if arm is not type(None))
    return kind
