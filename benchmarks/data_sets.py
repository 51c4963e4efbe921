"""The data sets of the five tasks, as they lie on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from peft_fishdip.tasks import (
    CONLL04_ENTITIES,
    CONLL04_RELATIONS,
    MASAKHANER_ENTITIES,
    MULTIWOZ_SLOTS,
    WNUT17_ENTITIES,
    WOZ_SLOTS,
    DstTask,
    JointExample,
    JointTask,
    NerExample,
    NerTask,
    RelationTask,
    SrlTask,
    Task,
    read_conll,
    read_conll04,
    read_fewrel,
    read_multiwoz,
    read_relation_names,
    read_srl_columns,
    read_woz,
)

from . import everyday, toy
from .settings import SettingsError


@dataclass(frozen=True)
class Loaded:
    """A data set as it lies on disk."""

    task: Task[Any]
    train: Sequence[Any]
    test: Sequence[Any]
    read_validation: Callable[[], Sequence[Any]] | None = None
    """Reads its validation part, which most comparisons leave alone; None if it has none."""
    train_file: str | None = None
    """Name of the training file, where there may be one or another."""


@dataclass(frozen=True)
class DataSet:
    """A data set that can be compared on."""

    kind: str
    """A key of problems.METRICS."""
    load: Callable[[Path], Loaded]
    """From the folder that holds all data sets. OSError or ValueError if something is missing or malformed."""


_loaded: dict[tuple[str, Path | None], Loaded] = {}


def load(name: str, root: Path | None) -> Loaded:
    """A data set, read once; `root` is the folder that holds all data sets.

    Raises:
        SettingsError: it is unknown, missing or malformed.
    """
    if name not in DATA_SETS:
        raise SettingsError(f"data set {name!r} is unknown; there are {', '.join(DATA_SETS)}")
    if name not in MADE_HERE and root is None:
        raise SettingsError(f"data set {name!r} needs --data, the folder with the data sets")
    if root is not None and not root.is_dir():
        raise SettingsError(f"--data {root} is no folder; give the one with the data sets")
    if (name, root) not in _loaded:
        try:
            _loaded[name, root] = DATA_SETS[name].load(root or Path())
        except OSError as error:
            there = sorted(path.name for path in (root or Path()).glob("[!.]*") if path.is_dir())
            listed = ", ".join(there) or "none"
            raise SettingsError(f"data set {name!r}: {error}; the folders of --data {root} are: {listed}") from error
        except ValueError as error:  # a DataFormatError is one
            raise SettingsError(f"data set {name!r}: {error}") from error
    return _loaded[name, root]


def _generated(_: Path) -> Loaded:
    return Loaded(NerTask(toy.LABELS), toy.sentences(toy.TRAIN, seed=-1), toy.sentences(toy.TEST, seed=-2))


def _everyday(_: Path) -> Loaded:
    test = everyday.sentences(everyday.TEST, seed=-2, new_names=True)
    return Loaded(NerTask(everyday.LABELS), everyday.sentences(everyday.TRAIN, seed=-1), test)


def _conll04(root: Path) -> Loaded:
    def read(part: str) -> Sequence[JointExample]:
        return read_conll04(root / "conll04" / f"conll04_{part}.json")

    return Loaded(JointTask(CONLL04_ENTITIES, CONLL04_RELATIONS), read("train"), read("test"), lambda: read("dev"))


def _conll04_ner(root: Path) -> Loaded:
    def read(part: str) -> Sequence[NerExample]:
        examples = read_conll04(root / "conll04" / f"conll04_{part}.json")
        return [NerExample(x.tokens, x.spans, x.id) for x in examples]

    return Loaded(NerTask(CONLL04_ENTITIES), read("train"), read("test"), lambda: read("dev"))


def _columns(folder: str, labels: dict[str, str], *files: str) -> Callable[[Path], Loaded]:
    """
    Args:
        files: of the training, the test and the validation part.
    """

    def read(root: Path) -> Loaded:
        train, test, validation = (partial(read_conll, root / folder / file) for file in files)
        return Loaded(NerTask(labels), train(), test(), validation)

    return read


def _fewrel(root: Path) -> Loaded:
    folder = root / "fewrel"
    whole, part = folder / "train_wiki.json", folder / "train_wiki_partial.json"
    file = whole if whole.exists() or not part.exists() else part
    train = read_fewrel(file)
    test = read_fewrel(folder / "val_wiki.json")
    known = read_relation_names(folder / "pid2name.json")
    labels = {str(x.label): known.get(str(x.label), str(x.label)) for x in (*train, *test)}
    return Loaded(RelationTask(labels), train, test, train_file=file.name)


def _ewt_srl(root: Path) -> Loaded:
    train, test, validation = (
        partial(read_srl_columns, root / "ewt_srl" / f"{part}.conll") for part in ("train", "test", "dev")
    )
    examples = train()
    # the labels of the training part: a test set must not tell which there are
    return Loaded(SrlTask(sorted({span.label for x in examples for span in x.arguments})), examples, test(), validation)


def _woz(root: Path) -> Loaded:
    train, test, validation = (
        partial(read_woz, root / "woz2" / f"woz_{part}_en.json") for part in ("train", "test", "validate")
    )
    return Loaded(DstTask(WOZ_SLOTS), train(), test(), validation)


def _multiwoz(root: Path) -> Loaded:
    train, test = (read_multiwoz(root / "multiwoz21" / f"{part}.json.zip") for part in ("val", "test"))
    return Loaded(DstTask(MULTIWOZ_SLOTS), train, test)


WNUT17_FILES = ("wnut17train.conll", "emerging.test.annotated", "emerging.dev.conll")
DATA_SETS: dict[str, DataSet] = {
    "wnut17": DataSet("ner", _columns("wnut17", WNUT17_ENTITIES, *WNUT17_FILES)),
    "fewrel": DataSet("relation", _fewrel),
    "conll04": DataSet("joint", _conll04),
    "ewt_srl": DataSet("srl", _ewt_srl),
    "woz2": DataSet("dst", _woz),
    "conll04-ner": DataSet("ner", _conll04_ner),
    **{
        f"masakhaner-{language}": DataSet(
            "ner", _columns(f"masakhaner/{language}", MASAKHANER_ENTITIES, "train.txt", "test.txt", "dev.txt")
        )
        for language in ("hau", "swa", "yor")
    },
    "multiwoz21": DataSet("dst", _multiwoz),
    "generated": DataSet("ner", _generated),
    "everyday": DataSet("ner", _everyday),
}
"""By name; MultiWOZ trains on the validation dialogues."""
MADE_HERE = ("generated", "everyday")
"""Those that need no folder."""

DEFAULT_DATA_SETS = {"ner": "wnut17", "relation": "fewrel", "joint": "conll04", "srl": "ewt_srl", "dst": "woz2"}
"""Of each task, the data set that stands for it."""
