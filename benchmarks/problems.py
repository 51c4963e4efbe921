"""What a run has to learn: the few examples that a protocol leaves of a data set."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peft_fishdip.tasks import Episode, Task, fraction_indices, meta_split, sample_episode

from .data_sets import DATA_SETS, Loaded, load
from .settings import SettingsError

METRICS: dict[str, tuple[str, ...]] = {
    "ner": ("f1",),
    "relation": ("accuracy",),
    "joint": ("entity_f1", "relation_f1"),
    "srl": ("f1",),
    "dst": ("joint_accuracy", "slot_f1"),
}
"""Of each task, the metrics that a report shows; shares from 0 to 1."""

PARTS = ("test", "validation")
CHOSEN_BY = ("training", "validation")

LABELS = ("spans", "relations", "arguments", "state")
"""Fields of examples that hold their labels."""

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
    part: str = "test"
    """Of the data set, one of PARTS: what runs are scored on."""
    rates_by: str = "training"
    """One of CHOSEN_BY: a share of the training examples, or the validation part of the data set."""
    unlabelled_fraction: float = 0.0
    """Share of the training examples that were not drawn whose labels are dropped, for self-training (not relation)."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise SettingsError(f"fraction={self.fraction!r}: give a share above 0 and up to 1, e.g. 0.01 for 1 %")
        if not 0 <= self.unlabelled_fraction <= 1:
            raise SettingsError(f"unlabelled_fraction={self.unlabelled_fraction!r}: give a share from 0 to 1, e.g. 0.2")
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
        more = f", and {100 * self.unlabelled_fraction:g} % of the others without labels"
        more = more if self.unlabelled_fraction else ""
        scored = "; scored on validation examples" if self.part == "validation" else ""
        return f"{100 * self.fraction:g} % of the training examples{most}{more}{scored}"

    def tag(self, kind: str) -> str:
        """The same as part of a path."""
        if kind == "relation":
            return f"{self.num_ways}-way-{self.num_shots}-shot"
        more = f"-unlabelled-{self.unlabelled_fraction:g}" if self.unlabelled_fraction else ""
        return f"fraction-{self.fraction:g}{more}"


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
    train_file: str | None = None
    """Name of the training file, where there may be one or another."""
    unlabelled: list[Any] = field(default_factory=list)
    """Training examples without their labels."""

    @property
    def num_test(self) -> int:
        return len(self.test) or sum(len(episode.query) for episode in self.episodes)


def problem(name: str, root: Path | None, protocol: Protocol, seed: int) -> Problem:
    """What a seed leaves of a data set.

    Raises:
        SettingsError: the data set is unknown, missing or malformed, or has too few examples.
    """
    loaded = load(name, root)
    kind = DATA_SETS[name].kind
    relation = kind == "relation"
    try:
        chosen = fraction_indices(len(loaded.train), 1.0 if relation else protocol.fraction, seed)
        train = [loaded.train[i] for i in chosen]
        if relation:
            train = labels_in_turn(train)
        found = Problem(name, kind, loaded.task, train[: protocol.max_train], train_file=loaded.train_file)
        if relation:
            return replace(found, episodes=sample_episodes(loaded.test, protocol, seed))
        unlabelled = unlabelled_examples(loaded.train, chosen, len(found.train), protocol.unlabelled_fraction, seed)
        scored = loaded.test if protocol.part == "test" else validation_examples(loaded, name)
        return replace(found, test=limited(scored, protocol.max_test), unlabelled=unlabelled)
    except ValueError as error:
        raise SettingsError(f"data set {name!r}: {error}") from error


def validation_examples(loaded: Loaded, name: str) -> Sequence[Any]:
    """
    Raises:
        SettingsError: the data set has no validation part, or its file is missing or malformed.
    """
    if loaded.read_validation is None:
        raise SettingsError(f"data set {name!r} has no validation part; leave out --part and --rates-by validation")
    try:
        return loaded.read_validation()
    except (OSError, ValueError) as error:
        raise SettingsError(f"data set {name!r}: {error}") from error


def unlabelled_examples(
    examples: Sequence[Any], chosen: Sequence[int], num_labelled: int, fraction: float, seed: int
) -> list[Any]:
    """A random share of the examples that are not among the labelled ones, without their labels.

    Args:
        chosen: positions of what was drawn, of which the first `num_labelled` are labelled.
    """
    labelled = {*chosen[:num_labelled]}
    rest = [i for i in range(len(examples)) if i not in labelled]
    random.Random(seed).shuffle(rest)
    return [without_labels(examples[i]) for i in rest[: round(fraction * len(rest))]]


def without_labels(example: Any) -> Any:
    """An example whose spans, relations, arguments or state are dropped."""
    return replace(example, **{name: () for name in LABELS if hasattr(example, name)})


def rate_problem(whole: Problem, protocol: Protocol, seed: int, root: Path | None = None) -> Problem:
    """A problem by which a learning rate is chosen; it has no test example.

    A share of the training examples takes the place of the test set, or the validation part of the data set does; for
    relation, episodes are drawn from a share of the meta-training relations.

    Raises:
        SettingsError: there are too few examples.
    """
    too_few = (
        f"data set {whole.dataset!r}: {len(whole.train)} training examples are too few to choose a learning rate by"
    )
    remedy = "give more examples, or set the rates with --rates own"
    if whole.kind == "relation":
        labels = len({example.label for example in whole.train})
        held_out = max(protocol.num_ways, round(RATE_SHARE * labels))
        try:
            train, rest = meta_split(whole.train, num_test_relations=held_out, seed=seed)
            return replace(whole, train=train, episodes=sample_episodes(rest, protocol, seed))
        except ValueError as error:
            raise SettingsError(f"{too_few}: {error}; {remedy}") from error
    if protocol.rates_by == "validation":
        validation = validation_examples(load(whole.dataset, root), whole.dataset)
        return replace(whole, test=limited(validation, protocol.max_test))
    order = list(range(len(whole.train)))
    if len(order) < 2:
        raise SettingsError(f"{too_few}; {remedy}")
    random.Random(seed).shuffle(order)
    count = max(1, round(RATE_SHARE * len(order)))
    train, test = [whole.train[i] for i in order[count:]], [whole.train[i] for i in order[:count]]
    return replace(whole, train=train, test=limited(test, protocol.max_test))


def sample_episodes(examples: Sequence[Any], protocol: Protocol, seed: int) -> list[Episode]:
    """Different episodes for each seed and each number."""
    return [
        sample_episode(examples, num_ways=protocol.num_ways, num_shots=protocol.num_shots, seed=1000 * seed + number)
        for number in range(protocol.num_episodes)
    ]


def labels_in_turn(examples: Sequence[Any]) -> list[Any]:
    """One example of each label, then a second one of each, ...: the first N of them are as even as can be."""
    seen: Counter[str] = Counter()
    turns = []
    for example in examples:
        turns.append(seen[example.label])
        seen[example.label] += 1
    return [examples[i] for i in sorted(range(len(examples)), key=turns.__getitem__)]


def limited(examples: Sequence[Any], count: int | None) -> list[Any]:
    if count is None or count >= len(examples):
        return list(examples)
    return random.Random(0).sample(list(examples), count)
