"""Records to and from `datasets.Dataset`."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .base import Decoded, Problem
from .readers.common import warn_without
from .records import NerExample
from .tagging import TagError, named_tags, tags_to_spans

if TYPE_CHECKING:
    from datasets import Dataset

E = TypeVar("E")


def to_dataset(examples: Sequence[Any]) -> Dataset:
    """One row per record, one column per field; spans and the like become structs.

    All records must be of one type. There is a column `text` if a record knows its text. `from_dataset` is the
    inverse. What `predict` returns is taken, too: a row then has three more columns, `generated_text`, `problems` and
    `scores`.
    """
    from datasets import Dataset, Features  # here, because importing it takes longer than all the rest

    if not examples:
        raise ValueError("no examples: the columns follow from the type of the first one")
    decoded = isinstance(examples[0], Decoded)
    records = [example.prediction if decoded and isinstance(example, Decoded) else example for example in examples]
    kind = type(records[0])
    if not dataclasses.is_dataclass(kind):
        raise TypeError(f"records or predictions expected, such as NerExample, got {kind.__name__}")
    for record in records:
        if type(record) is not kind:
            raise TypeError(f"records of one type expected, got {kind.__name__} and {type(record).__name__}")
    rows = [dataclasses.asdict(record) for record in records]
    features = _feature(kind)
    if "text" in features and not any(row["text"] for row in rows):
        del features["text"]
    columns = {name: [row[name] for row in rows] for name in features}
    if decoded:
        columns["generated_text"] = [example.text for example in examples]
        columns["problems"] = [[dataclasses.asdict(problem) for problem in example.problems] for example in examples]
        columns["scores"] = [list(example.scores) for example in examples]
        features |= {"generated_text": _feature(str), "problems": [_feature(Problem)], "scores": [_feature(float)]}
    return Dataset.from_dict(columns, features=Features(features))


def from_dataset(dataset: Iterable[dict[str, Any]], kind: type[E]) -> list[E]:
    """Records of type `kind` from the rows of `to_dataset`; further columns are ignored."""
    rows = list(dataset)
    for column in _fields(kind):
        if rows and column not in rows[0] and column != "text":
            raise ValueError(f"no column {column!r}; the data set has {', '.join(rows[0])}")
    return [*map(_constructor(kind), rows)]


def from_tagged_dataset(
    dataset: Dataset,
    *,
    tokens: str = "tokens",
    tags: str = "ner_tags",
    scheme: str = "conll",
    names: Sequence[str] = (),
) -> list[NerExample]:
    """NER examples from columns of tokens and tags, the usual layout on the Hugging Face Hub.

    Tags are texts, class labels, or numbers whose tags `names` lists; `scheme` is as in `read_conll`. Raises ValueError
    with the row for tags that do not fit; warns if there is no entity in any row.
    """
    for column in (tokens, tags):
        if column not in dataset.column_names:
            raise ValueError(f"no column {column!r}; the data set has {', '.join(dataset.column_names)}")
    feature = dataset.features[tags]
    names = names or getattr(getattr(feature, "feature", feature), "names", ())
    examples = []
    for number, row in enumerate(dataset):
        values = row[tags]
        if len(values) != len(row[tokens]):
            raise ValueError(f"row {number}: {len(row[tokens])} tokens but {len(values)} tags")
        try:
            spans = tags_to_spans(named_tags(values, names), scheme)
        except TagError as error:
            raise ValueError(f"row {number}: {error}") from None
        examples.append(NerExample(row[tokens], tuple(spans), str(row.get("id", number))))
    warn_without("entity", examples, any(example.spans for example in examples), f"column {tags!r}")
    return examples


def _fields(kind: Any) -> dict[str, Any]:
    """Type of each field of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _feature(kind: Any) -> Any:
    from datasets import Value

    if dataclasses.is_dataclass(kind):
        return {name: _feature(hint) for name, hint in _fields(kind).items()}
    if typing.get_origin(kind) is tuple:
        return [_feature(typing.get_args(kind)[0])]
    if isinstance(kind, types.UnionType):  # X | None: any column may hold null
        kind = next(arm for arm in typing.get_args(kind) if arm is not types.NoneType)
    return Value({str: "string", int: "int64", float: "float64", bool: "bool"}[kind])


def _constructor(kind: Any) -> Callable[[Any], Any]:
    """Function from a row, a struct or a list to what `kind` says."""
    if dataclasses.is_dataclass(kind):
        parts = {name: _constructor(hint) for name, hint in _fields(kind).items()}
        make: Callable[..., Any] = typing.cast(Any, kind)
        return lambda row: make(
            **{name: part(row[name]) for name, part in parts.items() if name in row or name != "text"}
        )
    if typing.get_origin(kind) is tuple:
        item = _constructor(typing.get_args(kind)[0])
        return lambda values: tuple(map(item, values))
    return lambda value: value
