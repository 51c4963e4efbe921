"""brat: standoff annotations, a file .ann beside each .txt."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from ..base import Problem
from ..checks import as_path
from ..readers.common import DataFormatError, StrPath, decode, is_blank, read_bytes, read_lines
from .checks import Entity, Link, finish, make_document
from .document import Document
from .mentions import check_words, is_interrupted, pieces_in_code_points

_KEY = re.compile(r"[TREAMN]\d\S*|\*")
_SPAN = re.compile(r"(\S+) (\d+ \d+(?:;\d+ \d+)*)")
_RELATION = re.compile(r"(\S+) ([^\s:]+):(\S+) ([^\s:]+):(\S+)")
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_OTHERS = {"A": "attributes", "M": "attributes", "N": "normalizations", "*": "equivalences", "E": "events"}


def read_brat(path: StrPath, *, encoding: str = "utf-8") -> list[Document]:
    """Read a folder of .ann files with their .txt, or one of these files; the id is the name of the file.

    Subfolders are read, too, but for hidden ones; an id then begins with the path in the folder, as in "news/1".

    Text-bound annotations (T) and relations (R) are read, notes (#) are passed over. Discontinuous spans, events,
    attributes, normalizations and equivalences are left out, with the problems "discontinuous_span" and
    "annotation_left_out"; a span that is interrupted by white space only is one span. Offsets count code points; where
    the words in the file say that they count something else (UTF-16 units, bytes, a line end of two characters as one,
    or a byte order mark), they are converted.
    """
    given = as_path(path)
    folder = given if given.is_dir() else given.parent
    files, unannotated = [given.with_suffix(".ann")], 0
    if given.is_dir():
        check_folder(given)
        files = _files(given, ".ann")
        unannotated = sum(not file.with_suffix(".ann").is_file() for file in _files(given, ".txt"))
    documents = []
    for file in files:
        text_file = file.with_suffix(".txt")
        name = file.relative_to(folder)
        if not text_file.is_file():
            raise DataFormatError(path, name.as_posix(), "its text beside it", f"no file {text_file.name}")
        id = unquote(name.with_suffix("").as_posix())
        documents.append(_document(file, text_file, encoding, id))
    return finish(path, documents, unannotated, "texts without a file .ann beside them")


def check_folder(folder: Path) -> None:
    """Raise DataFormatError for a folder without any annotations of brat."""
    if not _files(folder, ".ann"):
        found = sorted({path.suffix or path.name for path in folder.iterdir()})
        expected = "files .ann with their .txt beside them, as brat has them; give the file itself for another format"
        raise DataFormatError(folder, "folder", expected, found)


def _files(folder: Path, suffix: str) -> list[Path]:
    """Files of a folder and its subfolders, but for hidden ones."""
    every = (path for path in folder.rglob(f"*{suffix}") if path.is_file())
    return sorted(
        path for path in every if not any(part.startswith(".") for part in path.relative_to(folder).parent.parts)
    )


class _Mention(NamedTuple):
    """A text-bound annotation: its label, its pieces as they are given, the words, and the line."""

    label: str
    pieces: list[tuple[int, int]]
    words: str
    where: str


def _document(path: Path, text_file: Path, encoding: str, name: str) -> Document:
    mentions: dict[Hashable, _Mention] = {}
    relations: list[tuple[str, str, str, str]] = []
    others: Counter[str] = Counter()
    events: set[str] = set()
    for number, line in read_lines(path, encoding, may_be_empty=True):  # nothing annotated
        where = f"line {number}"
        key, *cells = line.split("\t")
        if is_blank(line) or key.startswith("#"):
            continue
        if not _KEY.fullmatch(key):
            raise DataFormatError(path, where, "an id such as T1, R1, E1, A1, M1, N1, * or #1, and a tab", line)
        if key.startswith("T"):
            match = _SPAN.fullmatch(cells[0]) if cells else None
            if match is None or len(cells) < 2:
                raise DataFormatError(path, where, "an id, a label with start and end, and the words, after tabs", line)
            if key in mentions:
                raise DataFormatError(path, where, "an id that no other annotation has", key)
            numbers = [part.split() for part in match[2].split(";")]
            pieces = sorted((int(start), int(end)) for start, end in numbers)
            mentions[key] = _Mention(match[1], pieces, "\t".join(cells[1:]), where)
        elif key.startswith("R"):
            match = _RELATION.match(cells[0].strip()) if cells else None
            if match is None:
                raise DataFormatError(
                    path, where, "an id, a tab, and a relation such as 'Lives_in Arg1:T1 Arg2:T2'", line
                )
            label, role, head, other, tail = match.groups()
            if (role, other) == ("Arg2", "Arg1"):
                head, tail = tail, head
            relations.append((label, head, tail, where))
        else:
            others[_OTHERS[key[0]]] += 1
            events |= {key} if key.startswith("E") else set()
    problems = [Problem("annotation_left_out", f"{path.name}: {count} {what}") for what, count in others.items()]
    links = []
    for label, head, tail, where in relations:
        if {head, tail} & events:
            problems.append(Problem("relation_of_lost_span", f"{path.name}, {where}: {label} is on an event"))
        else:
            links.append(Link(head, tail, label))
    content = read_bytes(text_file)
    text, marked = decode(content, text_file, encoding), content.startswith(_MARKS)
    entities, discontinuous, notes = _entities(text, mentions, marked, path)
    return make_document(
        path, "annotations", text, entities, links, id=name, problems=[*problems, *notes], left_out=discontinuous
    )


def _entities(
    text: str, mentions: Mapping[Hashable, _Mention], marked: bool, path: Path
) -> tuple[list[Entity], dict[Hashable, Problem], list[Problem]]:
    """Spans of one piece, the problems of those of several, by key, and a note of converted offsets."""
    given = [(mention.pieces, mention.words) for mention in mentions.values()]
    found, notes = pieces_in_code_points(text, given, marked=marked, where="annotations")
    entities: list[Entity] = []
    discontinuous: dict[Hashable, Problem] = {}
    for (key, mention), pieces in zip(mentions.items(), found, strict=True):
        if is_interrupted(text, pieces):
            places = ";".join(f"{start} {end}" for start, end in mention.pieces)
            message = f"{path.name}, {mention.where}: {mention.label} at {places} is not one piece of text"
            discontinuous[key] = Problem("discontinuous_span", message)
        else:
            check_words(text, pieces, mention.words, path, "annotations")
            entities.append(Entity(key, pieces[0][0], pieces[-1][1], mention.label))
    return entities, discontinuous, notes


def render_brat(documents: Sequence[Document]) -> dict[str, str]:
    """Contents of the files by name. Characters of an id that a file name cannot have are written as %XX."""
    files: dict[str, str] = {}
    for number, document in enumerate(documents):
        stem = quote(document.id or str(number), safe=" ()'!,;+@")
        if f"{stem}.ann" in files or len(stem) > 200:
            raise ValueError(
                f"the id {document.id!r} of document {number} cannot name a file: give short ids that differ"
            )
        lines = []
        ids = {span: f"T{number}" for number, span in enumerate(document.spans, 1)}
        for span, key in ids.items():
            words = document.text[span.start : span.end]
            if span.label.split() != [span.label]:
                raise ValueError(f"the label {span.label!r} holds white space, which brat does not allow in a label")
            pieces = [(span.start + m.start(), span.start + m.end()) for m in re.finditer(r"[^\r\n]+", words)]
            places = ";".join(f"{start} {end}" for start, end in pieces)
            lines.append(f"{key}\t{span.label} {places}\t{' '.join(re.split(_BREAKS, words))}\n")
        for number, relation in enumerate(document.relations, 1):
            if relation.label.split() != [relation.label]:
                raise ValueError(
                    f"the label {relation.label!r} holds white space, which brat does not allow in a label"
                )
            lines.append(f"R{number}\t{relation.label} Arg1:{ids[relation.head]} Arg2:{ids[relation.tail]}\n")
        files[f"{stem}.txt"], files[f"{stem}.ann"] = document.text, "".join(lines)
    return files


_BREAKS = re.compile(r"[\r\n]+")
