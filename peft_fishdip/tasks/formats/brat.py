"""brat: standoff annotations, a file .ann beside each .txt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, unquote

from ..base import Problem
from ..checks import as_path
from ..readers.common import DataFormatError, StrPath, is_blank, read_lines, read_text
from .checks import Entity, Link, finish, make_document
from .document import Document
from .mentions import Mention, mentions_in_code_points

_KEY = re.compile(r"[TREAMN]\d\S*|\*")
_SPAN = re.compile(r"(\S+) (\d+ \d+(?:;\d+ \d+)*)")
_RELATION = re.compile(r"(\S+) ([^\s:]+):(\S+) ([^\s:]+):(\S+)")
_OTHERS = {"A": "attributes", "M": "attributes", "N": "normalizations", "*": "equivalences", "E": "events"}


def read_brat(path: StrPath, *, encoding: str = "utf-8") -> list[Document]:
    """Read a folder of .ann files with their .txt, or one of these files; the id is the name of the file.

    Subfolders are read, too, but for hidden ones; an id then begins with the path in the folder, as in "news/1".

    Text-bound annotations (T) and relations (R) are read, notes (#) are passed over. Discontinuous spans, events,
    attributes, normalizations and equivalences are left out, with the problems "discontinuous_span" and
    "annotation_left_out"; a span that is interrupted by white space only is one span. Offsets count code points; where
    the words in the file say that they count something else, they are converted.
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
        documents.append(_document(file, read_text(text_file, encoding), encoding, id))
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


def _document(path: Path, text: str, encoding: str, name: str) -> Document:
    mentions: dict[Hashable, tuple[str, Mention]] = {}
    discontinuous: dict[Hashable, Problem] = {}
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
            if key in mentions or key in discontinuous:
                raise DataFormatError(path, where, "an id that no other annotation has", key)
            parts = sorted(tuple(map(int, part.split())) for part in match[2].split(";"))
            start, end = parts[0][0], parts[-1][1]
            gaps = [text[a[1] : b[0]] for a, b in pairwise(parts)]
            if any(gap.strip() for gap in gaps):
                message = f"{path.name}, {where}: {match[1]} at {match[2]} is not one piece of text"
                discontinuous[key] = Problem("discontinuous_span", message)
            else:
                mentions[key] = match[1], (start, end, "\t".join(cells[1:]))
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
    offsets, notes = mentions_in_code_points(text, [mention for _, mention in mentions.values()], path, "annotations")
    entities = [Entity(key, *pair, label) for (key, (label, _)), pair in zip(mentions.items(), offsets, strict=True)]
    return make_document(
        path, "annotations", text, entities, links, id=name, problems=[*problems, *notes], left_out=discontinuous
    )


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
