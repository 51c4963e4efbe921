"""Records to and from `datasets.Dataset`."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from .base import Decoded, Problem
from .checks import check_items, shown
from .formats.document import Document
from .readers.common import id_of, warn_without
from .records import NerExample
from .tagging import named_tags, tags_to_spans

if TYPE_CHECKING:
    from datasets import Dataset

E = TypeVar("E")


def to_dataset(examples: Iterable[Any]) -> Dataset:
    """One row per record, one column per field; spans and the like become structs.

    All records must be of one type. There is a column `text` if a record knows its text. `from_dataset` is the
    inverse. What `predict` returns is taken, too: a row then has three more columns, `generated_text`, `problems` and
    `scores`.
    """
    from datasets import Dataset, Features  # here, because importing it takes longer than all the rest

    check_items("examples", examples, "a list of records or predictions")
    examples = [*examples]
    if not examples:
        raise ValueError("no examples: the columns follow from the type of the first one")
    decoded = isinstance(examples[0], Decoded)
    records = [example.prediction if decoded and isinstance(example, Decoded) else example for example in examples]
    kind = type(records[0])
    if kind is Document:
        raise TypeError(
            "examples: these are Documents, whose offsets count characters; to_examples makes records of them"
        )
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
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise TypeError(f"kind={shown(kind)}: give the type of the records, such as NerExample")
    make, found = _constructor(kind), []
    for number, row in _rows(dataset, [name for name in _fields(kind) if name != "text"]):
        with _naming(number):
            found.append(make(row))
    return found


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
    feature = (getattr(dataset, "features", None) or {}).get(tags)
    names = names or getattr(getattr(feature, "feature", feature), "names", ())
    examples = []
    for number, row in _rows(dataset, (tokens, tags)):
        with _naming(number):
            words, values = (_filled(row, column) for column in (tokens, tags))
            if len(values) != len(words):
                raise ValueError(f"{len(words)} tokens but {len(values)} tags")
            example = NerExample(
                words, tuple(tags_to_spans(named_tags(values, names), scheme)), id_of(row, str(number))
            )
        examples.append(example)
    warn_without("entity", examples, any(example.spans for example in examples), f"column {tags!r}")
    return examples


def _rows(dataset: Any, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and values of each row, as Python has them whatever the format of the data set; they have these columns.

    Raises:
        TypeError: this is no data set, but several splits, or something else.
        ValueError: a column is missing.
    """
    if isinstance(dataset, Mapping):
        raise TypeError(
            f"dataset: these are the splits {', '.join(map(str, dataset))}; choose one, such as "
            f"dataset[{next(iter(dataset), 'train')!r}]"
        )
    check_items("dataset", dataset, "a datasets.Dataset")
    if (getattr(dataset, "format", None) or {}).get("type") != "custom":  # a transform may have other columns
        dataset = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
        _check_columns(getattr(dataset, "column_names", None), columns)
    for number, row in enumerate(dataset):
        if not isinstance(row, Mapping):
            raise TypeError(f"row {number}: {shown(row)} is no row of a data set; give a datasets.Dataset")
        _check_columns([*row], columns)
        yield number, dict(row)


def _filled(row: Mapping[str, Any], column: str) -> Any:
    if row[column] is None:
        raise ValueError(f"the column {column!r} is None; fill it, or filter such rows out")
    return row[column]


def _check_columns(names: Sequence[str] | None, columns: Sequence[str]) -> None:
    for column in columns:
        if names is not None and column not in names:
            raise ValueError(f"no column {column!r}; the data set has {', '.join(names)}")


@contextmanager
def _naming(number: int) -> Iterator[None]:
    """Say of an error which row it is in."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"row {number}: {error}") from None
    except ValueError as error:
        raise ValueError(f"row {number}: {error}") from None
    except KeyError as error:
        raise ValueError(f"row {number}: there is no {error}") from None


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
    known = {str: "string", int: "int64", float: "float64", bool: "bool"}
    if kind not in known:
        raise TypeError(
            f"a field of the type {kind} cannot be a column; columns hold texts, numbers and tuples of these"
        )
    return Value(known[kind])


def _constructor(kind: Any) -> Callable[[Any], Any]:
    """Function from a row, a struct or a list to what `kind` says."""
    if dataclasses.is_dataclass(kind):
        hints = _fields(kind)
        parts = {name: _constructor(hint) for name, hint in hints.items()}
        filled = {name for name, x in hints.items() if dataclasses.is_dataclass(x) or typing.get_origin(x) is tuple}
        make: Callable[..., Any] = typing.cast(Any, kind)

        def record(row: Mapping[str, Any]) -> Any:
            given = [name for name in parts if name in row or name != "text"]
            return make(**{name: parts[name](_filled(row, name) if name in filled else row[name]) for name in given})

        return record
    if typing.get_origin(kind) is tuple:
        item = _constructor(typing.get_args(kind)[0])
        return lambda values: tuple(map(item, values))
    return lambda value: value
