"""PubTator: title and abstract on a line each, and a line with tabs for each mention."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..base import Problem
from ..readers.common import DataFormatError, StrPath, is_blank, read_lines
from .checks import Entity, finish, make_document
from .document import Document
from .mentions import Mention, mentions_in_code_points

_PASSAGE = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
Row = tuple[int, str]


def read_pubtator(path: StrPath, *, encoding: str = "utf-8") -> list[Document]:
    """Read titles and abstracts, joined by a line break, with their mentions; identifiers of concepts are not kept.

    Relations of this format hold between concepts and not between mentions: they are left out, with the problem
    "annotation_left_out". Offsets count code points; where the mentions say that they count something else, they are
    converted.
    """
    return finish(path, [_document(rows, path) for rows in _blocks(path, encoding)])


def _blocks(path: StrPath, encoding: str) -> Iterator[list[Row]]:
    """The lines of each document, from its title on."""
    rows: list[Row] = []
    for number, line in read_lines(path, encoding):
        match = _PASSAGE.fullmatch(line)
        if match and match[2] == "t":
            if rows:
                yield rows
            rows = [(number, line)]
        elif not is_blank(line):
            if not rows:
                raise DataFormatError(path, number, "a title, as 'id|t|title', before anything else", line)
            rows.append((number, line))
    if rows:
        yield rows


def _document(rows: list[Row], path: StrPath) -> Document:
    passages: dict[str, str] = {}
    name = ""
    mentions: list[Mention] = []
    labels: list[str] = []
    problems: list[Problem] = []
    for number, line in rows:
        match = _PASSAGE.fullmatch(line)
        if match:
            if match[2] in passages or match[1] != (name or match[1]):
                raise DataFormatError(path, number, f"one title and one abstract of the document {name!r}", line)
            name, passages[match[2]] = match[1], match[3]
            continue
        cells = line.split("\t")
        if len(cells) < 4 or cells[0] != name:
            raise DataFormatError(path, number, f"{name!r} and the cells of a mention or relation, with tabs", line)
        if not (cells[1].isdecimal() and cells[2].isdecimal()):
            message = f"line {number}: the relation {cells[1]} between the concepts {cells[2]} and {cells[3]}"
            problems.append(Problem("annotation_left_out", message))
            continue
        if len(cells) < 5:
            raise DataFormatError(path, number, "id, start, end, mention and type, with tabs", line)
        mentions.append((int(cells[1]), int(cells[2]), cells[3]))
        labels.append(cells[4])
    text = passages["t"] + (f"\n{passages['a']}" if passages.get("a") else "")
    where = f"document {name}"
    offsets, notes = mentions_in_code_points(text, mentions, path, where)
    entities = [Entity(number, *pair, label) for number, (pair, label) in enumerate(zip(offsets, labels, strict=True))]
    return make_document(path, where, text, entities, id=name, problems=[*problems, *notes])


def render_pubtator(documents: Sequence[Document]) -> str:
    """One block per document; the first line of its text is the title, the second the abstract."""
    blocks = []
    for number, document in enumerate(documents):
        name = document.id or str(number)
        if re.search(r"[|\t\r\n]", name):
            raise ValueError(
                f"the id {name!r} holds '|', a tab or a line break, which PubTator does not allow in an id"
            )
        title, *abstract = re.split(r"\r\n|\r|\n", document.text)
        if len(abstract) > 1:
            raise ValueError(
                f"document {name!r} has {len(abstract)} line breaks, and PubTator holds one, between title and "
                "abstract: replace the others by spaces, which keeps offsets"
            )
        lines = [f"{name}|t|{title}", f"{name}|a|{''.join(abstract)}"]
        for span in document.spans:
            words = document.text[span.start : span.end].replace("\t", " ")
            if re.search(r"[\r\n]", words):
                raise ValueError(f"{span} of document {name!r} begins in the title and ends in the abstract")
            if re.search(r"[\t\r\n]", span.label):
                raise ValueError(f"the label {span.label!r} holds a tab or a line break, which PubTator does not allow")
            lines.append(f"{name}\t{span.start}\t{span.end}\t{words}\t{span.label}\t-")
        blocks.append("\n".join(lines) + "\n\n")
    return "".join(blocks)
