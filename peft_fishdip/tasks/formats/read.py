"""Read a file of any known format, which its content tells."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..checks import as_path
from ..readers.ace05 import read_ace05
from ..readers.common import (
    DataFormatError,
    StrPath,
    empty_file,
    is_blank,
    read_bytes,
    read_json_records,
    read_lines,
)
from ..readers.conll import read_conll, split_columns
from ..readers.conll04 import read_conll04
from ..readers.dialogue import read_multiwoz, read_woz
from ..readers.fewrel import read_fewrel
from ..readers.ontonotes import read_ontonotes
from ..readers.opennre import read_opennre
from ..readers.semeval2010 import read_semeval2010
from ..readers.srl import read_srl_columns, read_srl_lines
from ..readers.tacred import read_tacred
from ..readers.tagged_json import read_tagged_json
from ..tagging import is_tag
from .brat import check_folder, read_brat
from .doccano import read_doccano
from .document import Document, to_examples
from .fishdip import read_fishdip
from .gliner import read_gliner
from .label_studio import read_label_studio
from .prodigy import read_prodigy
from .pubtator import read_pubtator
from .spacy_docbin import read_spacy

logger = logging.getLogger(__name__)

DOCUMENT_READERS: dict[str, Callable[..., list[Document]]] = {
    "brat": read_brat,
    "doccano": read_doccano,
    "fishdip": read_fishdip,
    "gliner": read_gliner,
    "label_studio": read_label_studio,
    "prodigy": read_prodigy,
    "pubtator": read_pubtator,
    "spacy": read_spacy,
}
RECORD_READERS: dict[str, Callable[..., list[Any]]] = {
    "ace05": read_ace05,
    "conll": read_conll,
    "fewrel": read_fewrel,
    "multiwoz": read_multiwoz,
    "ontonotes": read_ontonotes,
    "opennre": read_opennre,
    "semeval2010": read_semeval2010,
    "spert": read_conll04,
    "srl_columns": read_srl_columns,
    "srl_lines": read_srl_lines,
    "tacred": read_tacred,
    "tagged_json": read_tagged_json,
    "woz": read_woz,
}


_OWN_OPTIONS = {
    "conll": {"token", "tag"},
    "srl_columns": {"word", "predicate", "arguments"},
    "tagged_json": {"tokens", "tags"},
}
"""Options that say where in a file of this format something stands."""
_PRODIGY_KEYS = {"_input_hash", "_task_hash", "answer", "meta", "tokens"}


@dataclass(frozen=True)
class Loaded:
    """What `read` gives: the format it took, the examples, and the documents of formats that hold raw texts."""

    format: str
    examples: Sequence[Any]
    documents: tuple[Document, ...] = ()


def read(path: StrPath, *, format: str | None = None, **options: Any) -> Loaded:
    """Read a file (or a folder of brat) in any of the formats, recognised by its content where `format` is not given.

    The format that was taken is in the result and logged. `options` go to the format's own reader, and those that say
    which columns hold what, such as `token=1, tag=2`, tell the format, too. Examples are
    `JointExample` where any document has a relation, else `NerExample`; `to_examples` makes what you choose of the
    documents. Raises ValueError where no format fits or several may, DataFormatError where the file is malformed.
    """
    name = format or recognise(path, options.get("encoding", "utf-8"), options)
    if name == "conll" and "token" not in options:
        _refuse_numbers(path, options)
    if name in DOCUMENT_READERS:
        documents = DOCUMENT_READERS[name](path, **options)
        loaded = Loaded(name, to_examples(documents), tuple(documents))
    elif name in RECORD_READERS:
        loaded = Loaded(name, RECORD_READERS[name](path, **options))
    else:
        raise ValueError(f"format={format!r}: choose one of {', '.join(sorted({*DOCUMENT_READERS, *RECORD_READERS}))}")
    logger.info("%s: read %d examples in the format %s", path, len(loaded.examples), name)
    return loaded


def recognise(path: StrPath, encoding: str = "utf-8", options: Mapping[str, Any] | None = None) -> str:
    """Name of the format of a file, as `read` takes it with these options.

    Raises:
        ValueError: the content is of no known format.
    """
    file = as_path(path)
    if file.is_dir():
        check_folder(file)
        return "brat"
    if file.suffix == ".ann" or (file.suffix == ".txt" and file.with_suffix(".ann").is_file()):
        return "brat"
    given = options or {}
    for name, own in _OWN_OPTIONS.items():
        if own & given.keys():
            return name
    content = read_bytes(path)
    if content.startswith(b"PK\x03\x04"):
        return "multiwoz"
    if _is_docbin(content):
        return "spacy"
    start = content[:1000].replace(b"\0", b"").decode("utf-8", "ignore").lstrip("\ufeff \t\r\n")
    if not start and not content.strip(b"\0\xef\xbb\xbf\xfe\xff \t\r\n"):
        raise empty_file(path)
    found = _json_format(path, encoding) if start.startswith(("{", "[")) else None
    found = found or _text_format(path, encoding, given.get("scheme", "conll"))
    if found is None:
        known = ", ".join(sorted({*DOCUMENT_READERS, *RECORD_READERS}))
        raise ValueError(f"{path}: no known format fits its first lines; say which with format=, one of {known}")
    return found


def _is_docbin(content: bytes) -> bool:
    """A DocBin is compressed by zlib; its first byte may also begin a text."""
    if content[:1] != b"\x78":
        return False
    try:
        return b"tokens" in zlib.decompressobj().decompress(content, 1 << 16)
    except zlib.error:
        return False


def _json_format(path: StrPath, encoding: str) -> str | None:
    """The first format that one of the first records belongs to."""
    try:
        for _, record in islice(read_json_records(path, encoding), 100):
            if isinstance(record, dict) and (found := _record_format(record)):
                return found
    except DataFormatError:
        first = next((line for _, line in read_lines(path, encoding) if not is_blank(line)), "")
        if _looks_like_json(first):
            raise
    return None


def _looks_like_json(line: str) -> bool:
    return re.match(r"""\s*(\{\s*("|$)|\[\s*([\[{"]|$))""", line) is not None


def _record_format(record: dict[str, Any]) -> str | None:
    def have(*keys: str) -> bool:
        return all(key in record for key in keys)

    def lists_of(key: str, *inside: str) -> bool:
        values = record.get(key)
        return isinstance(values, list) and any(
            isinstance(value, dict) and all(name in value for name in inside) for value in values
        )

    tests: tuple[tuple[str, bool], ...] = (
        ("gliner", have("tokenized_text", "ner")),
        ("label_studio", isinstance(record.get("data"), dict)),
        ("label_studio", any(lists_of(key, "start", "end", "labels") for key in record) or have("annotation_id")),
        ("tacred", have("token", "subj_start")),
        ("opennre", have("h", "t") and (have("text") or have("token"))),
        ("ace05", have("sentences") and (have("ner") or have("relations"))),
        ("spert", have("tokens", "relations") and (have("entities") or have("tags"))),
        ("tagged_json", have("tokens", "ner_tags")),
        ("multiwoz", lists_of("turns", "speaker")),
        ("woz", lists_of("dialogue", "transcript")),
        ("fishdip", have("text", "spans") and (have("problems") or have("generated_text"))),
        ("fishdip", have("generated_text", "problems")),
        ("fishdip", have("text", "spans", "id") and not _PRODIGY_KEYS & record.keys()),
        ("prodigy", have("text") and (have("spans") or have("_task_hash") or lists_of("tokens", "start", "end"))),
        ("doccano", (have("text") or have("data")) and (have("label") or have("labels") or have("entities"))),
        ("multiwoz", any(isinstance(value, dict) and "log" in value for value in record.values())),
        ("fewrel", any(_is_fewrel(value) for value in record.values())),
    )
    return next((name for name, fits in tests if fits), None)


def _is_fewrel(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict) and {"tokens", "h", "t"} <= set(value[0])
    )


def _text_format(path: StrPath, encoding: str, scheme: str) -> str | None:
    lines = [line for _, line in islice(read_lines(path, encoding), 200) if not is_blank(line)]
    if not lines:
        return None
    first = lines[0]
    if re.match(r"[^|\t]+\|t\|", first):
        return "pubtator"
    if re.match(r"\d+\s.*<e1>", first):
        return "semeval2010"
    if "|||" in first:
        return "srl_lines"
    rows = [split_columns(line) for line in lines if not re.match(r"#(\s|$)|#begin|-DOCSTART-", line)]
    if any(line.startswith("#begin document") for line in lines):
        raise ValueError(
            f"{path} is of CoNLL-2012, which holds entities and propositions: take read_ontonotes(path), or "
            "read_srl_columns(path, word=3, predicate=7, arguments=11); their formats are 'ontonotes' and 'srl_columns'"
        )
    tagged = sum(len(row) > 1 and is_tag(row[-1], scheme) for row in rows)
    if tagged == len(rows):
        return "conll"
    if all(len(row) > 3 for row in rows) and any(re.search(r"\(\S+\*", cell) for row in rows for cell in row[3:]):
        return "srl_columns"
    return "conll" if 2 * tagged >= len(rows) else None  # whose reader names the lines that do not fit


def _refuse_numbers(path: StrPath, options: dict[str, Any]) -> None:
    """Tokens stand in the first column of a CoNLL file, unless that numbers them."""
    lines = (line for _, line in read_lines(path, options.get("encoding", "utf-8")))
    given = (line for line in islice(lines, 200) if not is_blank(line) and not line.startswith(("#", "-DOC")))
    rows = [split_columns(line) for line in given]
    if rows and all(len(row) > 2 and row[0].isdecimal() for row in rows):
        raise ValueError(
            f"{path}: the first column has numbers only; pass the columns of tokens and tags, as token=1, tag=2"
        )
