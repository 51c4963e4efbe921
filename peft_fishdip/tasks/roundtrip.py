"""Does `decode(encode(x)) == x` hold? The table per data set, with the reasons where it does not.

`python -m peft_fishdip.tasks.roundtrip <folder> [tokenizer]` prints it for the public data sets found in
the folder, each in one of its own name (conll04, wnut17, ...); with a tokenizer's path or name also through the pieces
of that tokenizer. A file that cannot be read is named; the others are done.
"""

from __future__ import annotations

import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from . import names
from .base import Task
from .dst import DstTask
from .joint import JointTask
from .lengths import text_of
from .ner import NerTask
from .offsets import from_offsets
from .readers.conll import read_conll
from .readers.conll04 import read_conll04
from .readers.dialogue import read_multiwoz, read_woz
from .readers.fewrel import read_fewrel, read_relation_names
from .readers.srl import read_srl_columns
from .records import JointExample, NerExample
from .relation import RelationTask
from .srl import SrlTask


@dataclass(frozen=True)
class RoundTrip:
    """Result over one data set: how many examples come back equal, and why the others do not."""

    num_examples: int
    num_equal: int
    reasons: dict[str, int]
    """Examples that change, by the kinds of problem `encode` reported; others are "unexplained", a defect
    of the format or, where a tokenizer was given, characters that it lacks or merges."""
    problems: dict[str, int]
    """Problems `encode` reported, whether or not they change the example."""


def round_trip(task: Task[Any], examples: Iterable[Any], tokenizer: Any = None) -> RoundTrip:
    """Encode and decode every example; with a tokenizer, the target passes through its pieces."""
    total, equal = 0, 0
    reasons: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    for example in examples:
        encoded = task.encode(example)
        text = encoded.target
        if tokenizer is not None:
            text = text_of(tokenizer, tokenizer(text)["input_ids"])
        decoded = task.decode(example, text)
        problems.update(problem.kind for problem in encoded.problems)
        total += 1
        if decoded.prediction == example:
            equal += 1
        else:
            kinds = sorted({problem.kind for problem in encoded.problems})
            reasons[" + ".join(kinds) or "unexplained"] += 1
    return RoundTrip(total, equal, dict(reasons), dict(problems))


Loader = Callable[[Path], tuple[Task[Any], Sequence[Any]]]


def _joint(path: Path) -> tuple[Task[Any], Sequence[Any]]:
    return JointTask(names.CONLL04_ENTITIES, names.CONLL04_RELATIONS), read_conll04(path)


def _conll04_ner(path: Path) -> tuple[Task[Any], Sequence[Any]]:
    return NerTask(names.CONLL04_ENTITIES), [NerExample(x.tokens, x.spans, x.id) for x in read_conll04(path)]


def _ner(labels: dict[str, str]) -> Loader:
    return lambda path: (NerTask(labels), read_conll(path))


def _srl(path: Path) -> tuple[Task[Any], Sequence[Any]]:
    examples = read_srl_columns(path)
    return SrlTask(sorted({span.label for x in examples for span in x.arguments})), examples


def _fewrel(path: Path) -> tuple[Task[Any], Sequence[Any]]:
    examples = read_fewrel(path)
    known = read_relation_names(path.parent / "pid2name.json")
    return RelationTask({x.label: known.get(x.label, x.label) for x in examples if x.label}), examples


def _multiwoz(path: Path) -> tuple[Task[Any], Sequence[Any]]:
    return DstTask(names.MULTIWOZ_SLOTS), read_multiwoz(path)


def _woz(path: Path) -> tuple[Task[Any], Sequence[Any]]:
    return DstTask(names.WOZ_SLOTS), read_woz(path)


def as_text(example: NerExample | JointExample) -> NerExample | JointExample:
    """The same spans in characters of a raw text, in which punctuation marks stand without spaces around them."""
    text = ""
    starts, ends = [], []
    for token in example.tokens:
        text += " " if text and text[-1].isalnum() and token[:1].isalnum() else ""
        starts.append(len(text))
        text += token
        ends.append(len(text))
    spans = [(starts[span.start], ends[span.end - 1], span.label) for span in example.spans]
    place = {span: number for number, span in enumerate(example.spans)}
    relations = getattr(example, "relations", None)
    if relations is None:
        return from_offsets(text, spans, id=example.id, trim=True)
    named = [(place[x.head], place[x.tail], x.label) for x in relations]
    return from_offsets(text, spans, named, id=example.id, trim=True)


def _raw(load: Loader) -> Loader:
    def loader(path: Path) -> tuple[Task[Any], Sequence[Any]]:
        task, examples = load(path)
        return task, [as_text(example) for example in examples]

    return loader


DATA_SETS: tuple[tuple[str, str, Loader], ...] = (
    ("CoNLL04 joint", "conll04/*_t[er][sa]*.json", _joint),
    ("CoNLL04 joint", "conll04/*_dev.json", _joint),
    ("CoNLL04 NER", "conll04/*_t[er][sa]*.json", _conll04_ner),
    ("CoNLL04 NER", "conll04/*_dev.json", _conll04_ner),
    ("WNUT-17 NER", "wnut17/*", _ner(names.WNUT17_ENTITIES)),
    ("MasakhaNER", "masakhaner/*/*.txt", _ner(names.MASAKHANER_ENTITIES)),
    ("CoNLL04 joint, raw text", "conll04/*_t[er][sa]*.json", _raw(_joint)),
    ("CoNLL04 joint, raw text", "conll04/*_dev.json", _raw(_joint)),
    ("WNUT-17 NER, raw text", "wnut17/*", _raw(_ner(names.WNUT17_ENTITIES))),
    ("MasakhaNER, raw text", "masakhaner/*/*.txt", _raw(_ner(names.MASAKHANER_ENTITIES))),
    ("EWT SRL", "ewt_srl/*.conll", _srl),
    ("FewRel", "fewrel/[tv]*.json", _fewrel),
    ("MultiWOZ 2.1 DST", "multiwoz21/*.json.zip", _multiwoz),
    ("WOZ 2.0 DST", "woz2/woz_*.json", _woz),
)
"""Name, files below the data folder, and how to load one."""


def table(folder: Path, tokenizer: Any = None) -> Iterator[tuple[str, str, RoundTrip | Exception]]:
    """Data set, file and result for each public data set below `folder`; of a file that cannot be read, the error."""
    for name, pattern, load in DATA_SETS:
        for path in sorted(folder.glob(pattern)):
            result: RoundTrip | Exception
            try:
                result = round_trip(*load(path), tokenizer)
            except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
                result = error
            yield name, str(path.relative_to(folder)), result


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())) or "-"


def main(arguments: Sequence[str]) -> int:
    if len(arguments) not in (1, 2):
        print("usage: python -m peft_fishdip.tasks.roundtrip <folder> [tokenizer]", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    if not folder.is_dir():
        print(f"{folder} is no folder; give the one that holds the data sets", file=sys.stderr)
        return 2
    if not any(True for _, pattern, _ in DATA_SETS for _ in folder.glob(pattern)):
        known = ", ".join(dict.fromkeys(pattern.split("/")[0] for _, pattern, _ in DATA_SETS))
        print(f"{folder} has no data set in a folder of its name: {known}", file=sys.stderr)
        return 2
    tokenizer = AutoTokenizer.from_pretrained(arguments[1]) if len(arguments) == 2 else None
    unexplained, unread = 0, 0
    print("| data set | file | examples | equal | changed, by reason | problems reported |")
    print("|---|---|--:|--:|---|---|")
    for name, file, result in table(folder, tokenizer):
        if isinstance(result, Exception):
            print(f"| {name} | {file} | not read | | | |")
            print(f"{file}: {type(result).__name__}: {result}", file=sys.stderr)
            unread += 1
            continue
        counts = f"{result.num_examples} | {result.num_equal}"
        print(f"| {name} | {file} | {counts} | {_list(result.reasons)} | {_list(result.problems)} |")
        unexplained += result.reasons.get("unexplained", 0)
    if unread:
        print(f"{unread} of the files could not be read; correct them, or take them out of {folder}", file=sys.stderr)
    return 1 if unread or (unexplained and tokenizer is None) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
