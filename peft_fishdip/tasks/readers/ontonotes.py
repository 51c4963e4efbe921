"""Named entities of OntoNotes 5 in the column format of CoNLL-2012."""

from __future__ import annotations

from ..records import NerExample
from ..tagging import TagError
from .bracket_column import bracket_spans
from .common import DataFormatError, StrPath, warn_without
from .conll import column_blocks

_WORD, _ENTITY, _COLUMNS = 3, 10, 12


def read_ontonotes(path: StrPath, *, encoding: str = "utf-8") -> list[NerExample]:
    """Read one *_conll file: word in column 4, named entity in column 11. Raises DataFormatError.

    Example ids are document, part and number of the sentence in the part. `read_srl_columns` reads the
    propositions of such a file.
    """
    examples: list[NerExample] = []
    numbers: dict[str, int] = {}
    for rows in column_blocks(path, at_least=_COLUMNS, comments=True, encoding=encoding):
        try:
            spans = bracket_spans([columns[_ENTITY] for _, columns in rows])
        except TagError as error:
            raise DataFormatError(path, rows[error.position][0], error.expected, error.found) from None
        part = f"{rows[0][1][0]}:{rows[0][1][1]}"
        numbers[part] = numbers.get(part, -1) + 1
        tokens = tuple(columns[_WORD] for _, columns in rows)
        examples.append(NerExample(tokens, tuple(spans), f"{part}:{numbers[part]}"))
    warn_without("entity", examples, any(example.spans for example in examples), path)
    return examples
