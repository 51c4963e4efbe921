"""Predictions as plain dicts, JSON lines and a pandas table."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from os import PathLike
from typing import Any

from .base import Decoded
from .checks import as_path, check_items
from .formats.document import Document
from .formats.fishdip import document_to_dict
from .offsets import TextSpan, in_text
from .records import DstExample, JointExample, NerExample, RelationExample, Span, SrlExample

_ANSWERS = ("spans", "arguments", "relations", "state")
"""Fields of records, in the order of a task's `answers`."""
_RESULTS = "a list of predictions, records or documents"
_COLUMNS = ("document", "id", "start", "end", "text", "label", "score")


def to_dict(result: Decoded[Any] | Any) -> dict[str, Any]:
    """A prediction, a record or a document in texts, numbers, lists and dicts.

    Spans are {"start", "end", "text", "label"} in characters of the value of "text": `text[start:end]` is the span.
    Like relations, arguments and slot values, they have a "score" where the model gives one. "text" is the raw
    text, with the brackets that mark a predicate or a head and a tail, or, where it is not known, the tokens with
    single spaces between them. Relations are {"head", "tail", "label"}, where head and tail are positions in
    "spans". A prediction also has "generated_text" and "problems".
    """
    if isinstance(result, Document):
        return document_to_dict(result)
    record = result.prediction if isinstance(result, Decoded) else result
    scores = result.scores if isinstance(result, Decoded) else ()
    if isinstance(record, DstExample):
        found = asdict(record)
    elif isinstance(record, NerExample | JointExample | SrlExample | RelationExample):
        found = _of_tokens(record)
    else:
        raise TypeError(f"a prediction or a record expected, such as NerExample, got {type(record).__name__}")
    answers = [answer for name in _ANSWERS for answer in found.get(name, ())]
    if isinstance(record, RelationExample):
        answers = [found]
    if len(scores) == len(answers):
        for answer, score in zip(answers, scores, strict=True):
            answer["score"] = score
    if isinstance(result, Decoded):
        found["generated_text"] = result.text
        found["problems"] = [asdict(problem) for problem in result.problems]
    return found


def _of_tokens(record: Any) -> dict[str, Any]:
    text = getattr(record, "text", "") or " ".join(record.tokens)

    def located(spans: tuple[Span, ...]) -> list[dict[str, Any]]:
        return [_dict(span, text) for span in in_text(record, text, spans, [None] * len(spans))]

    found: dict[str, Any] = {"text": text}
    for name in (field.name for field in fields(record)):
        value = getattr(record, name)
        if name in ("spans", "arguments"):
            found[name] = located(value)
        elif name == "relations":
            place = {span: number for number, span in enumerate(record.spans)}
            found[name] = [{"head": place[x.head], "tail": place[x.tail], "label": x.label} for x in value]
        elif isinstance(value, Span):
            found[name] = located((value,))[0]
        elif name not in ("tokens", "text"):
            found[name] = value
    return found


def _dict(span: TextSpan, text: str) -> dict[str, Any]:
    return {"start": span.start, "end": span.end, "text": text[span.start : span.end], "label": span.label}


def write_json_lines(path: str | PathLike[str], results: Iterable[Decoded[Any] | Any]) -> None:
    """Write `to_dict` of each prediction, record or document, one per line, in UTF-8.

    `read` takes what has entities, with or without relations. The file is compressed if its name ends in .gz.
    """
    check_items("results", results, _RESULTS)
    lines = [json.dumps(to_dict(result), ensure_ascii=False, allow_nan=False) + "\n" for result in results]
    # A surrogate that stands alone has no form in UTF-8; backslashreplace writes it as JSON does.
    data = "".join(lines).encode("utf-8", "backslashreplace")
    target = as_path(path)
    target.write_bytes(gzip.compress(data) if target.suffix == ".gz" else data)


def to_pandas(results: Iterable[Decoded[Any] | Any]) -> Any:
    """A pandas DataFrame with one row for each entity of predictions or records.

    `document` counts the results from 0, `start` and `end` are characters as in `to_dict`.

    Raises:
        ImportError: pandas is not installed.
        TypeError: the results have no entities.
    """
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install pandas; to_dict does without") from error
    check_items("results", results, _RESULTS)
    rows = []
    for number, result in enumerate(results):
        found = to_dict(result)
        if "spans" not in found:
            raise TypeError(f"result {number} has no entities, but {', '.join(found)}; use to_dict, or to_dataset")
        rows += [{"document": number, "id": found["id"], **span} for span in found["spans"]]
    return DataFrame(rows, columns=[*_COLUMNS])
