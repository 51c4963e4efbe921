"""Semantic role labelling: column files with one bracket column per predicate, and the reference's lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from ..checks import as_path
from ..records import Span, SrlExample
from ..tagging import TagError, tags_to_spans
from .bracket_column import bracket_spans
from .common import DataFormatError, StrPath, is_blank, read_lines, warn_without
from .conll import Row, check_separators, column_blocks


def read_srl_columns(
    path: StrPath, *, word: int = 0, predicate: int = 2, arguments: int = 4, encoding: str = "utf-8"
) -> list[SrlExample]:
    """Read one file that holds words and propositions, one example per predicate.

    `word` and `predicate` are column numbers (the predicate column has "-" where there is none); one column
    per predicate follows from column `arguments` on. The defaults fit word, POS, lemma, roleset, brackets;
    `word=3, predicate=7, arguments=11` fits CoNLL-2012, whose last column, coreference, is left out.
    Lines that begin with "#" and hold no tab are comments, unless they have as many columns as the other lines of the
    sentence, no predicate, and brackets: "#" is also a token, of pounds. Raises DataFormatError with file and line.
    """

    def is_row(columns: Sequence[str]) -> bool:
        return columns[predicate] == "-" and all(map(_IN_BRACKET_COLUMN.search, columns[arguments:]))

    examples: list[SrlExample] = []
    name = as_path(path).name
    blocks = [*column_blocks(path, max(word, predicate) + 1, comments=True, is_row=is_row, encoding=encoding)]
    check_separators(path, blocks, word)
    for number, rows in enumerate(blocks):
        words = tuple(columns[word] for _, columns in rows)
        props = [(line, [columns[predicate], *columns[arguments:]]) for line, columns in rows]
        examples += _propositions(words, props, path, f"{name}:{number}")
    warn_without("proposition", examples, bool(examples), path)
    return examples


def read_conll2005(words_path: StrPath, props_path: StrPath, *, encoding: str = "utf-8") -> list[SrlExample]:
    """Read the two files of a CoNLL-2005 section, e.g. test.wsj.words.gz and test.wsj.props.gz.

    The props file has the predicate's lemma or "-", then one bracket column per predicate.
    """
    examples: list[SrlExample] = []
    name = as_path(props_path).name
    both = (column_blocks(path, 1, encoding=encoding) for path in (words_path, props_path))
    blocks = zip_longest(*both, fillvalue=None)
    for number, (words, props) in enumerate(blocks):
        if words is None or props is None or len(words) != len(props):
            lines = words or props
            assert lines is not None
            path = words_path if words else props_path
            raise DataFormatError(
                path, lines[0][0], f"sentence {number} to have as many lines as in the other file", len(lines)
            )
        tokens = tuple(columns[0] for _, columns in words)
        examples += _propositions(tokens, props, props_path, f"{name}:{number}")
    warn_without("proposition", examples, bool(examples), props_path)
    return examples


_IN_BRACKET_COLUMN = re.compile(r"[*()]|^(?:-|[\d|]+)$")
"""Of brackets, right or wrong, or of the coreference column."""
_COREFERENCE = re.compile(r"-|\(?\d+\)?(?:\|\(?\d+\)?)*")


def _propositions(words: tuple[str, ...], rows: list[Row], path: StrPath, name: str) -> list[SrlExample]:
    """Examples of one sentence; each row is its predicate cell and one bracket cell per predicate."""
    predicates = [position for position, (_, cells) in enumerate(rows) if cells[0] != "-"]
    if len(rows[0][1]) > 1 and all(_COREFERENCE.fullmatch(cells[-1]) for _, cells in rows):
        rows = [(line, cells[:-1]) for line, cells in rows]
        if len(rows[0][1]) - 1 != len(predicates):  # CoNLL-2012 has lemmas of words that are no predicates
            predicates = [at for column in zip(*(c[1:] for _, c in rows), strict=True) for at in _verb_starts(column)]
    if len(rows[0][1]) - 1 != len(predicates):
        expected = f"one bracket column for each of the {len(predicates)} predicates"
        raise DataFormatError(path, rows[0][0], expected, f"{len(rows[0][1]) - 1} columns")
    examples = []
    for number, position in enumerate(predicates):
        try:
            spans = bracket_spans([cells[number + 1] for _, cells in rows])
        except TagError as error:
            raise DataFormatError(path, rows[error.position][0], error.expected, error.found) from None
        arguments = tuple(span for span in spans if span.label != "V")
        examples.append(SrlExample(words, _verb(spans, position), arguments, f"{name}:{number}"))
    return examples


def _verb_starts(column: Sequence[str]) -> list[int]:
    return [position for position, cell in enumerate(column) if re.match(r"\(V[*)]", cell)]


def _verb(spans: list[Span], position: int) -> Span:
    """The V span at `position`, or one elsewhere (a C-V is at `position`), or the token itself."""
    verbs = [span for span in spans if span.label == "V"]
    return next((v for v in verbs if v.start <= position < v.end), (*verbs, Span(position, position + 1, "V"))[0])


def read_srl_lines(path: StrPath, *, encoding: str = "utf-8") -> list[SrlExample]:
    """Read lines of the form `<index> w1 w2 ... ||| t1 t2 ... |||`, as the reference does.

    The index is that of the predicate; tags are BIO with B-V on the predicate. The last ||| may be missing.
    An I- that continues nothing begins an argument (the reference would extend the one before it).
    """
    examples: list[SrlExample] = []
    for number, line in read_lines(path, encoding):
        if is_blank(line):
            continue
        parts = [part.split() for part in line.split("|||")]
        if len(parts) == 3 and not parts[2]:
            parts.pop()
        if len(parts) != 2 or not parts[0]:
            raise DataFormatError(path, number, "'index words ||| tags |||'", line)
        (index, *words), tags = parts
        if len(words) != len(tags):
            raise DataFormatError(path, number, f"{len(words)} tags, one per word", f"{len(tags)} tags")
        if not index.isdecimal() or int(index) >= len(words):
            raise DataFormatError(path, number, f"a predicate index below {len(words)}", index)
        try:
            spans = tags_to_spans(tags, "conll")
        except TagError as error:
            raise DataFormatError(path, number, f"{error.expected} as tag {error.position}", error.found) from None
        arguments = tuple(span for span in spans if span.label != "V")
        examples.append(SrlExample(tuple(words), _verb(spans, int(index)), arguments, f"{Path(path).name}:{number}"))
    warn_without("proposition", examples, bool(examples), path)
    return examples
