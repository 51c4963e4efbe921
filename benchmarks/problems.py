"""The five tasks of a comparison: their data sets, and the few examples that a protocol leaves of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft_fishdip.tasks import (
    CONLL04_ENTITIES,
    CONLL04_RELATIONS,
    MASAKHANER_ENTITIES,
    MULTIWOZ_SLOTS,
    WNUT17_ENTITIES,
    WOZ_SLOTS,
    DataFormatError,
    DstTask,
    Episode,
    JointTask,
    NerExample,
    NerTask,
    RelationTask,
    SrlTask,
    Task,
    fraction_indices,
    meta_split,
    read_conll,
    read_conll04,
    read_fewrel,
    read_multiwoz,
    read_relation_names,
    read_srl_columns,
    read_woz,
    sample_episode,
)

from . import toy
from .settings import SettingsError

METRICS: dict[str, tuple[str, ...]] = {
    "ner": ("f1",),
    "relation": ("accuracy",),
    "joint": ("entity_f1", "relation_f1"),
    "srl": ("f1",),
    "dst": ("joint_accuracy", "slot_f1"),
}
"""Of each task, the metrics that a report shows; shares from 0 to 1."""

RATE_SHARE = 0.2
"""Share of the training examples by which a learning rate is chosen."""


@dataclass(frozen=True)
class Protocol:
    """How few examples there are."""

    fraction: float = 0.1
    """Share of the training examples (all tasks but relation)."""
    max_train: int | None = None
    """... but so many at most; of relation, so many for meta-training."""
    num_ways: int = 5
    """Relations of an episode."""
    num_shots: int = 1
    """Labelled examples of each of them."""
    num_episodes: int = 4
    """Episodes of a run; each begins with what was learned on the meta-training relations."""
    max_test: int | None = None
    """Test on so many examples, drawn once for all."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise SettingsError(f"fraction={self.fraction!r}: give a share above 0 and up to 1, e.g. 0.01 for 1 %")
        for name in ("num_ways", "num_shots", "num_episodes"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)!r}: must be at least 1")
        for name in ("max_train", "max_test"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name}={value!r}: must be at least 1")

    def title(self, kind: str) -> str:
        if kind == "relation":
            return f"{self.num_ways}-way {self.num_shots}-shot, {self.num_episodes} episodes"
        most = f", at most {self.max_train}" if self.max_train else ""
        return f"{100 * self.fraction:g} % of the training examples{most}"

    def tag(self, kind: str) -> str:
        """The same as part of a path."""
        return f"{self.num_ways}-way-{self.num_shots}-shot" if kind == "relation" else f"fraction-{self.fraction:g}"


@dataclass(frozen=True)
class Problem:
    """What one run is to learn and on what it is scored."""

    dataset: str
    kind: str
    """A key of METRICS."""
    task: Task[Any]
    train: list[Any]
    """The few labelled examples; for relation those of the meta-training relations."""
    test: list[Any] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    """Of relation, in place of `test`."""

    @property
    def num_test(self) -> int:
        return len(self.test) or sum(len(episode.query) for episode in self.episodes)


@dataclass(frozen=True)
class Loaded:
    """A data set as it lies on disk."""

    task: Task[Any]
    train: Sequence[Any]
    test: Sequence[Any]


@dataclass(frozen=True)
class DataSet:
    """A data set that can be compared on."""

    kind: str
    load: Callable[[Path], Loaded]
    """From the folder that holds all data sets. OSError or DataFormatError if something is missing or malformed."""


def problem(name: str, root: Path | None, protocol: Protocol, seed: int) -> Problem:
    """What a seed leaves of a data set.

    Raises:
        SettingsError: the data set is unknown, missing or malformed, or has too few examples.
    """
    if name not in DATA_SETS:
        raise SettingsError(f"data set {name!r} is unknown; there are {', '.join(DATA_SETS)}")
    if name != "generated" and (root is None or not root.is_dir()):
        raise SettingsError(f"data set {name!r}: {root} is no folder; --data names the folder with the data sets")
    kind = DATA_SETS[name].kind
    try:
        loaded = load(name, root)
        if kind == "relation":
            train = [loaded.train[i] for i in fraction_indices(len(loaded.train), 1.0, seed)[: protocol.max_train]]
            episodes = sample_episodes(loaded.test, protocol, seed)
            return Problem(name, kind, loaded.task, train, episodes=episodes)
        chosen = fraction_indices(len(loaded.train), protocol.fraction, seed)[: protocol.max_train]
        train = [loaded.train[i] for i in chosen]
        return Problem(name, kind, loaded.task, train, limited(loaded.test, protocol.max_test))
    except (OSError, DataFormatError, ValueError) as error:
        raise SettingsError(f"data set {name!r}: {error}") from error


def rate_problem(whole: Problem, protocol: Protocol, seed: int) -> Problem:
    """A problem made of training examples alone, by which a learning rate is chosen.

    A share of the training examples takes the place of the test set; for relation, episodes are drawn from a
    share of the meta-training relations.
    """
    if whole.kind == "relation":
        labels = len({example.label for example in whole.train})
        held_out = max(protocol.num_ways, round(RATE_SHARE * labels))
        train, rest = meta_split(whole.train, num_test_relations=held_out, seed=seed)
        return Problem(whole.dataset, whole.kind, whole.task, train, episodes=sample_episodes(rest, protocol, seed))
    order = list(range(len(whole.train)))
    random.Random(seed).shuffle(order)
    count = max(1, round(RATE_SHARE * len(order)))
    if len(order) < 2:
        raise SettingsError(f"{len(order)} training example is too few to choose a learning rate by; set a rate")
    train, test = [whole.train[i] for i in order[count:]], [whole.train[i] for i in order[:count]]
    return Problem(whole.dataset, whole.kind, whole.task, train, limited(test, protocol.max_test))


def sample_episodes(examples: Sequence[Any], protocol: Protocol, seed: int) -> list[Episode]:
    """Different episodes for each seed and each number."""
    return [
        sample_episode(examples, num_ways=protocol.num_ways, num_shots=protocol.num_shots, seed=1000 * seed + number)
        for number in range(protocol.num_episodes)
    ]


def limited(examples: Sequence[Any], count: int | None) -> list[Any]:
    if count is None or count >= len(examples):
        return list(examples)
    return random.Random(0).sample(list(examples), count)


_loaded: dict[tuple[str, Path | None], Loaded] = {}


def load(name: str, root: Path | None) -> Loaded:
    """A data set, read once."""
    if (name, root) not in _loaded:
        _loaded[name, root] = DATA_SETS[name].load(root or Path())
    return _loaded[name, root]


def _generated(_: Path) -> Loaded:
    return Loaded(NerTask(toy.LABELS), toy.sentences(toy.TRAIN, seed=-1), toy.sentences(toy.TEST, seed=-2))


def _conll04(root: Path) -> Loaded:
    train, test = (read_conll04(root / "conll04" / f"conll04_{part}.json") for part in ("train", "test"))
    return Loaded(JointTask(CONLL04_ENTITIES, CONLL04_RELATIONS), train, test)


def _conll04_ner(root: Path) -> Loaded:
    joint = _conll04(root)
    train, test = ([NerExample(x.tokens, x.spans, x.id) for x in part] for part in (joint.train, joint.test))
    return Loaded(NerTask(CONLL04_ENTITIES), train, test)


def _columns(folder: str, labels: dict[str, str], train: str, test: str) -> Callable[[Path], Loaded]:
    return lambda root: Loaded(NerTask(labels), read_conll(root / folder / train), read_conll(root / folder / test))


def _fewrel(root: Path) -> Loaded:
    folder = root / "fewrel"
    whole = folder / "train_wiki.json"
    train = read_fewrel(whole if whole.exists() else folder / "train_wiki_partial.json")
    test = read_fewrel(folder / "val_wiki.json")
    known = read_relation_names(folder / "pid2name.json")
    labels = {str(x.label): known.get(str(x.label), str(x.label)) for x in (*train, *test)}
    return Loaded(RelationTask(labels), train, test)


def _ewt_srl(root: Path) -> Loaded:
    train, test = (read_srl_columns(root / "ewt_srl" / f"{part}.conll") for part in ("train", "test"))
    # the labels of the training part: a test set must not tell which there are
    return Loaded(SrlTask(sorted({span.label for x in train for span in x.arguments})), train, test)


def _woz(root: Path) -> Loaded:
    train, test = (read_woz(root / "woz2" / f"woz_{part}_en.json") for part in ("train", "test"))
    return Loaded(DstTask(WOZ_SLOTS), train, test)


def _multiwoz(root: Path) -> Loaded:
    train, test = (read_multiwoz(root / "multiwoz21" / f"{part}.json.zip") for part in ("val", "test"))
    return Loaded(DstTask(MULTIWOZ_SLOTS), train, test)


DATA_SETS: dict[str, DataSet] = {
    "wnut17": DataSet("ner", _columns("wnut17", WNUT17_ENTITIES, "wnut17train.conll", "emerging.test.annotated")),
    "fewrel": DataSet("relation", _fewrel),
    "conll04": DataSet("joint", _conll04),
    "ewt_srl": DataSet("srl", _ewt_srl),
    "woz2": DataSet("dst", _woz),
    "conll04-ner": DataSet("ner", _conll04_ner),
    **{
        f"masakhaner-{language}": DataSet(
            "ner", _columns(f"masakhaner/{language}", MASAKHANER_ENTITIES, "train.txt", "test.txt")
        )
        for language in ("hau", "swa", "yor")
    },
    "multiwoz21": DataSet("dst", _multiwoz),
    "generated": DataSet("ner", _generated),
}
"""By name; MultiWOZ trains on the validation dialogues."""

DEFAULT_DATA_SETS = {"ner": "wnut17", "relation": "fewrel", "joint": "conll04", "srl": "ewt_srl", "dst": "woz2"}
"""Of each task, the data set that stands for it."""
