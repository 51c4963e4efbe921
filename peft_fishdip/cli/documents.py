"""What the verbs about files of documents share: options, reading, errors of one line and a table of problems."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..tasks.formats.document import Document, to_document
from ..tasks.formats.read import DOCUMENT_READERS, RECORD_READERS, read, recognise
from ..tasks.formats.write import FORMATS
from ..tasks.records import JointExample, NerExample
from .messages import note, printable, with_options

OTHER_NAMES = {"jsonl": "fishdip"}
"""Names of formats on the command line alone: the JSON lines that predictions are written in."""

Source = Annotated[Path, typer.Argument(metavar="IN", help="File, or folder of brat, with texts and their labels.")]
From = Annotated[str | None, typer.Option("--from", help="Format of the annotated texts, where it is not recognised.")]
Unit = Annotated[
    str | None,
    typer.Option("--unit", help="What offsets of the annotated texts count: characters, utf-16, utf-8 or graphemes."),
]
Encoding = Annotated[str | None, typer.Option("--encoding", help="Encoding of IN, where it is not UTF-8.")]
Options = list[str] | None
Read = Annotated[Options, typer.Option("--read", metavar="NAME=VALUE", help="Option of the reader, such as token=1.")]


@dataclass(frozen=True)
class Input:
    """Documents of a file, its format, and whether that holds raw texts rather than tokens."""

    format: str
    documents: list[Document]
    has_texts: bool


def format_name(name: str, known: Mapping[str, Any], option: str) -> str:
    """The format of a name of the command line."""
    chosen = OTHER_NAMES.get(name, name)
    if chosen not in known:
        raise ValueError(f"{option} {name}: choose one of {', '.join(sorted({*known, *OTHER_NAMES}))}")
    return chosen


def parse_options(given: Options, function: Callable[..., Any], option: str, format: str) -> dict[str, Any]:
    """Keyword arguments of a function from NAME=VALUE, each of the type that the function asks for."""
    known, types = _keywords(function), get_type_hints(function)
    found: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            allowed = f"NAME=VALUE, one of {', '.join(f'{name}=' for name in known)}" if known else "none"
            raise ValueError(f"{option} {text}: options of the format {format!r} are {allowed}")
        found[name] = _typed(value, types[name], f"{option} {text}")
    return found


def _typed(value: str, annotation: Any, given: str) -> Any:
    """A value of the command line as one of the annotated type: true or false, a number, a text, or a list in JSON."""
    try:
        content = json.loads(value.lower() if value.lower() in ("true", "false") else value)
    except ValueError:
        content = value
    if get_origin(annotation) in (Iterable, Sequence):
        if not isinstance(content, list):
            raise ValueError(f'{given}: give a list in JSON, such as ["a", "b"]')
        return content
    types = get_args(annotation) or (annotation,)
    if bool in types and not isinstance(content, bool):
        raise ValueError(f"{given}: give true or false")
    if int in types and type(content) is not int:
        raise ValueError(f"{given}: give a whole number")
    if str in types and not (isinstance(content, str) or (content is None and NoneType in types)):
        return value
    return content


def _keywords(function: Callable[..., Any]) -> list[str]:
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]


def reader_options(
    source: Path, format: str | None, unit: str | None, encoding: str | None, given: Options
) -> tuple[str, dict[str, Any]]:
    """The format of a file, and keyword arguments of its reader, from options of the command line.

    Raises:
        ValueError: there is no such file, its format is not recognised, or an option is not one of this format.
    """
    if not source.exists():
        raise ValueError(f"{source}: there is no such file or folder; check the name")
    if format is None and not (source.is_file() or source.is_dir()):
        raise ValueError(f"{source} can be read once only, so that its format cannot be recognised; say it with --from")
    readers = DOCUMENT_READERS | RECORD_READERS
    name = format_name(format, readers, "--from") if format else _recognised(source, encoding, given)
    options = parse_options(given, readers[name], "--read", name)
    for key, value in (("unit", unit), ("encoding", encoding)):
        if value is not None and key not in _keywords(readers[name]):
            raise ValueError(f"--{key} {value}: the format {name!r} leaves no choice of this; leave --{key} out")
        options |= {key: value} if value is not None else {}
    return name, options


def _recognised(source: Path, encoding: str | None, given: Options) -> str:
    named = {name: value for name, _, value in (text.partition("=") for text in given or ())}
    return recognise(source, encoding or "utf-8", named)


def load(source: Path, format: str | None, unit: str | None, encoding: str | None, given: Options) -> Input:
    """Read documents; warnings go to stderr. Raises ValueError with what was wrong and the remedy."""
    name, options = reader_options(source, format, unit, encoding, given)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if name in DOCUMENT_READERS:  # without the records that `read` makes of them
                documents, examples = DOCUMENT_READERS[name](source, **options), []
            else:
                documents, examples = [], list(read(source, format=name, **options).examples)
        except TypeError as error:
            raise ValueError(f"{source} cannot be read in the format {name!r} with {options}: {error}") from error
    for warning in caught:
        note("warning", with_options(str(warning.message)))
    if other := next((x for x in examples if not isinstance(x, NerExample | JointExample)), None):
        raise ValueError(
            f"{source} is of the format {name!r} and holds records of the type {type(other).__name__}; give a file of "
            "entities, or of entities and relations between them"
        )
    return Input(
        name, documents or [to_document(example) for example in examples], name in FORMATS and FORMATS[name].text
    )


def counts(documents: Sequence[Document]) -> str:
    """The numbers of documents, spans and relations."""
    numbers = {
        "document": len(documents),
        "span": sum(len(document.spans) for document in documents),
        "relation": sum(len(document.relations) for document in documents),
    }
    return ", ".join(f"{number} {name}{'s' * (number != 1)}" for name, number in numbers.items())


def show_problems(documents: Sequence[Document]) -> None:
    """A table on stderr: each kind of problem, how often it was met, and where first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for number, document in enumerate(documents):
        for problem in document.problems:
            found.setdefault(problem.kind, []).append((document.id or str(number), problem.message))
    if not found:
        return
    table = Table("problem", "count", "first in", "message", title_justify="left", title="Problems")
    table.columns[1].justify = "right"
    for kind, places in sorted(found.items()):
        table.add_row(*(Text(printable(cell)) for cell in (kind, str(len(places)), *places[0])))
    Console(stderr=True, highlight=False).print(table)
