"""Where the training examples come from, and batches of them in which each example keeps its number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from ..distributed import world
from .losses import IGNORED, Batch, Numbered, batch_size
from .packing import example_of, refuse_packed, segments
from .rows import RowsError, are_texts, rows, why_not_rows

Collator = Callable[[list[Any]], Mapping[str, Any]]  # from a list of feature dicts to a batch
MIN_OF_A_SHARE, MAX_OF_A_SHARE = 3, 25  # examples that a share stands for, as in the reference (fish_dip.py)
TOKENS_TOGETHER = 1024  # most tokens, padding included, in a batch of several examples that takes one backward pass
REMEDY = "give a Dataset or list of examples and its data_collator, which collates them one by one, or batches of one"


class Candidate(NamedTuple):
    """An example that may score the parameters; those with the highest priority do."""

    priority: float
    number: int
    batch: Batch | None  # of this example alone; None if the source can fetch it by its number


Priorities = Callable[[Numbered], Sequence[float]]  # from a batch to the priority of each of its examples


@runtime_checkable
class ExampleSource(Protocol):
    """The examples that a mask is chosen by, as one rank sees them.

    Attributes:
        seen: how many examples this rank can choose from; final once `candidates` is exhausted.
        empty_message: the error message if no rank has any.
        may_be_few: all examples are taken if there are fewer than an int `num_samples` asks for; else an error says so.
        autocast: the dtype of torch.autocast that the forward passes over them run under, if any.
        heard: the losses that the priorities are were computed in training, with dropout and earlier parameters.
    """

    seen: int
    empty_message: str = "there is no example to score; pass at least one."
    may_be_few: bool = False
    autocast: torch.dtype | None = None
    heard: bool = False

    def candidates(self, priorities: Priorities) -> Iterator[Candidate]:
        """This rank's examples with their priorities; no two examples of any ranks have the same number."""
        ...

    def groups(self, chosen: Sequence[Candidate]) -> Iterator[Numbered]:
        """Batches of the chosen examples for the backward passes; here each example is a batch of its own."""
        for candidate in chosen:
            assert candidate.batch is not None
            yield Numbered([candidate.number], candidate.batch)

    def check(self, model: nn.Module) -> None:
        """Called before `candidates`, to test by losses that the model computes what the source assumes of examples."""
        return

    def forget(self) -> None:
        """Called after a mask update: discard what the next update must not use again. By default nothing is."""
        return


def source_of(examples: Any, collator: Collator, batch_size: int, scan: bool) -> ExampleSource:
    """The source for a Dataset or sequence of feature dicts, or for an iterable of ready batches; or a source itself.

    Feature dicts are collated in batches of at most `batch_size` examples. `scan` says whether the priorities depend
    on the examples' contents.
    """
    if isinstance(examples, ExampleSource):
        return examples
    return IndexedExamples(examples, collator, batch_size, scan) if is_indexed(examples) else BatchStream(examples)


def checked_examples(examples: Any, argument: str = "examples") -> Any:
    """The examples; raises TypeError for what cannot be a collection of them."""
    indexed = hasattr(examples, "__getitem__") and hasattr(examples, "__len__")
    if not (indexed or isinstance(examples, (ExampleSource, Iterable))):
        raise TypeError(
            f"{argument}={examples!r} must be a Dataset or a list of feature dicts (input_ids, labels, ...), or an "
            "iterable of ready batches."
        )
    return examples


def is_indexed(examples: Any) -> bool:
    """Whether the items of a Dataset or sequence can be fetched by number; raises a TypeError for a batch or splits."""
    if isinstance(examples, Mapping):
        kind = type(examples).__name__
        if are_splits(examples.values()):
            first = next(iter(examples))
            raise TypeError(
                f"examples is a {kind} of the splits {', '.join(map(str, examples))}; choose one, such as "
                f"dataset[{first!r}]."
            )
        raise TypeError(f"examples is a {kind}, a single batch; pass an iterator of batches, such as iter([batch]).")
    if isinstance(examples, IterableDataset):  # inherits a __getitem__ that only raises
        return False
    return hasattr(examples, "__getitem__") and hasattr(examples, "__len__")


def are_splits(values: Iterable[Any]) -> bool:
    """Whether these are data sets or lists of examples, and not the tensors or lists of a batch."""
    return any(
        hasattr(value, "column_names")
        or isinstance(value, Dataset)
        or (isinstance(value, (list, tuple)) and len(value) > 0 and isinstance(value[0], Mapping))
        for value in values
    )


class IndexedExamples(ExampleSource):
    """A Dataset or sequence of feature dicts, the same on every rank. Each rank scores every world_size-th example.

    The arguments are those of [`source_of`]. Without `scan`, only the chosen examples are fetched and collated.
    """

    def __init__(self, examples: Sequence[Any], collator: Collator, batch_size: int, scan: bool) -> None:
        rank, ranks = world()
        self.examples = examples
        self.collator = collator
        self.batch_size = batch_size
        self.scan = scan
        self.numbers = range(rank, len(examples), ranks)
        self.seen = len(self.numbers)

    def candidates(self, priorities: Priorities) -> Iterator[Candidate]:
        """This rank's examples; with `scan` the longest come first."""
        for numbered in self.batches() if self.scan else [Numbered(list(self.numbers), {})]:
            splits = self.scan and why_not_rows(numbered.batch, len(numbered.ids)) is None
            for index, priority in enumerate(priorities(numbered)):
                number = numbered.ids[index]
                drawn = splits and is_drawn(self.examples[number], numbered.batch, index)
                yield Candidate(priority, number, rows(numbered, [index]).batch if drawn else None)

    def batches(self) -> Iterator[Numbered]:
        """All examples of this rank in batches, longest first: little padding, and memory is short at once or never."""
        lengths = self.lengths(self.numbers)
        ordered = sorted(lengths, key=lambda number: (-lengths[number], number))
        for start in range(0, len(ordered), self.batch_size):
            yield from self.fetched(ordered[start : start + self.batch_size])

    def groups(self, chosen: Sequence[Candidate]) -> Iterator[Numbered]:
        """Batches of the chosen examples, shortest first; long examples are batches of their own.

        One pass over several examples saves time only while its matrix products are small. Other examples than texts,
        such as those with images, are collated one by one. Examples whose targets were drawn at random come last, each
        as it was when its loss was computed.
        """
        lengths = self.lengths([candidate.number for candidate in chosen if candidate.batch is None])
        group: list[int] = []
        for number in sorted(lengths, key=lambda number: (lengths[number], number)):
            if group and (len(group) == self.batch_size or (len(group) + 1) * lengths[number] > TOKENS_TOGETHER):
                yield from self.fetched(group, texts=True)
                group = []
            group.append(number)
        if group:
            yield from self.fetched(group, texts=True)
        yield from super().groups([candidate for candidate in chosen if candidate.batch is not None])

    def lengths(self, numbers: Iterable[int]) -> dict[int, int]:
        return {number: length(self.examples[number]) for number in numbers}

    def fetched(self, numbers: Sequence[int], texts: bool = False) -> Iterator[Numbered]:
        """The examples with these numbers as a batch; or as a batch each, if the collator does not give each one row.

        It joins examples in one row if it avoids padding, and makes two of each if the loss compares pairs. With
        `texts`, only texts are one batch, because their rows are sure to be the examples.
        """
        together, count = self.fetch(numbers), len(numbers)
        if count > 1 and (batch_size(together.batch) != count or (texts and not are_texts(together.batch, count))):
            for number in numbers:
                yield from self.fetched([number])
            return
        refuse_packed(together)
        yield together

    def fetch(self, numbers: Sequence[int]) -> Numbered:
        """The examples with these numbers as one batch."""
        features = [self.examples[number] for number in numbers]
        for number, feature in zip(numbers, features, strict=True):
            if not isinstance(feature, Mapping):
                kind = type(feature).__name__
                raise TypeError(f"example {number} is a {kind}, not a dict of features such as input_ids.")
            ids = feature.get("input_ids")
            if isinstance(ids, Tensor) and ids.dim() > 1:
                raise ValueError(
                    f"example {number} looks like a batch: pass ready batches as an iterator, iter(batches)."
                )
            labels: Any = feature.get("labels")
            if hasattr(labels, "__len__") and getattr(labels, "ndim", 1) > 0 and not len(labels):
                raise ValueError(f"example {number} has no label, labels={labels!r}; give it one, or leave it out.")
        return Numbered(list(numbers), self.collator(features))


def is_drawn(feature: Any, batch: Batch, row: int) -> bool:
    """Whether the collator has made the labels of an example, and not by copying its tokens: as masked LMs have it."""
    ids, labels = batch.get("input_ids"), batch.get("labels")
    if (
        "labels" in feature
        or not isinstance(ids, Tensor)
        or not isinstance(labels, Tensor)
        or ids.shape != labels.shape
    ):
        return False
    mask = batch.get("attention_mask")
    attended = ids[row] == ids[row] if not isinstance(mask, Tensor) or mask.shape != ids.shape else mask[row] != 0
    return not torch.equal(ids[row][attended], labels[row][attended])


class BatchStream(ExampleSource):
    """An iterable of ready batches; each rank iterates over its own part of the data."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches
        self.seen = 0

    def candidates(self, priorities: Priorities) -> Iterator[Candidate]:
        """The rows of this rank's batches, or the examples that are packed in them, in order.

        Raises:
            RowsError: a batch cannot be split into its examples.
        """
        rank, ranks = world()
        for batch in self.batches:
            check_ready(batch)
            packed = segments(batch)
            count = batch_size(batch) if packed is None else len(packed)
            ids = [number * ranks + rank for number in range(self.seen, self.seen + count)]
            self.seen += count
            numbered = Numbered(ids, batch)
            if packed is None:
                found, reason = priorities(numbered), why_not_rows(batch, count)
                if reason is not None:
                    raise RowsError(f"a batch of {count} examples cannot be split into them: {reason}; {REMEDY}.")
                for index, priority in enumerate(found):
                    yield Candidate(priority, ids[index], rows(numbered, [index]).batch)
            else:
                for number, segment in zip(ids, packed, strict=True):
                    example = example_of(batch, segment)
                    yield Candidate(priorities(Numbered([number], example))[0], number, example)


def check_ready(batch: Any) -> None:
    """Raise if an item of a stream is not a dict, or a single example instead of a batch."""
    if not isinstance(batch, Mapping):
        raise TypeError(f"a batch is a {type(batch).__name__}, not a dict of tensors such as input_ids.")
    ids = batch.get("input_ids")
    single = all(isinstance(token, int) for token in ids) if isinstance(ids, list) else getattr(ids, "ndim", 2) < 2
    if single:
        raise ValueError(
            "input_ids of a batch has one dimension: an iterable must give ready batches; pass single examples "
            "as a Dataset or a list, or collate them."
        )


def length(feature: Any) -> int:
    """Number of tokens in an example's input and labels together."""
    if not isinstance(feature, Mapping):
        return 0
    values: list[Any] = [feature.get(key) for key in ("input_ids", "labels")]
    return sum(len(value) for value in values if hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0)


def to_device(numbered: Numbered, device: torch.device) -> Numbered:
    """The same batch with all of its tensors on `device`."""
    moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in numbered.batch.items()}
    return Numbered(numbered.ids, moved)


def padding_collator(pad_token_id: int | None) -> Collator:
    """A collator that pads on the right: `input_ids` with the pad token, `labels` with -100, all else with 0.

    Suitable for encoder-decoder models and encoders, and for causal LMs in training.
    """

    def collate(features: list[Any]) -> dict[str, Tensor]:
        fill = {"input_ids": pad_token_id or 0, "labels": IGNORED, "decoder_input_ids": pad_token_id or 0}
        batch: dict[str, Tensor] = {}
        for key in features[0]:
            try:
                rows = [torch.as_tensor(feature[key]) for feature in features]
            except (TypeError, ValueError, RuntimeError, KeyError) as error:
                raise ValueError(
                    f"the feature {key!r} of an example is no tensor ({error}); remove the column, or pass a "
                    "data_collator that handles it."
                ) from error
            if rows[0].dim() == 0:
                batch[key] = torch.stack(rows)
            else:
                batch[key] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill.get(key, 0))
        if "input_ids" in batch and "attention_mask" not in batch:
            ones = [torch.ones(len(feature["input_ids"]), dtype=torch.int64) for feature in features]
            batch["attention_mask"] = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True)
        return batch

    return collate


def max_to_pick(num_samples: int | float) -> int:
    """The most examples that `FishDipConfig.num_samples` can stand for, whatever their total number."""
    return MAX_OF_A_SHARE if isinstance(num_samples, float) else num_samples


def number_to_pick(num_samples: int | float, count: int, may_be_few: bool = False) -> int:
    """How many of `count` examples score the parameters.

    Raises:
        ValueError: an int `num_samples` asks for more, and they may not be few.
    """
    if isinstance(num_samples, float):
        return min(max(int(num_samples * count), MIN_OF_A_SHARE), MAX_OF_A_SHARE, count)
    if may_be_few:
        return min(num_samples, count)
    if num_samples > count:
        raise ValueError(
            f"there are {count} examples, too few to pick from: num_samples={num_samples} asks for {num_samples}; "
            "lower it, or give more examples."
        )
    return num_samples
