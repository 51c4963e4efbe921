"""Training examples, however the user holds them, as batches whose rows keep their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from .losses import IGNORED, Batch, batch_size

Collator = Callable[[list[Any]], Mapping[str, Any]]


LEAST_OF_A_SHARE, MAX_OF_A_SHARE = 3, 25
"""Examples that a share of them comes to at least and at most, as in the authors' code (fish_dip.py)."""


class Numbered(NamedTuple):
    """A batch and the numbers of its examples."""

    ids: list[int]
    batch: Batch


def is_indexed(examples: Any) -> bool:
    """Whether `examples` can be picked by number: a Dataset or a sequence, not a stream of ready batches.

    Raises:
        TypeError: it is a single batch.
    """
    if isinstance(examples, Mapping):
        raise TypeError(
            f"examples is a {type(examples).__name__}, a single batch; pass an iterator of batches, "
            "such as iter([batch])."
        )
    streams = isinstance(examples, IterableDataset)  # which has a __getitem__, of Dataset, that only raises
    return hasattr(examples, "__getitem__") and hasattr(examples, "__len__") and not streams


def pick(examples: Sequence[Any], ids: Sequence[int], collator: Collator) -> Numbered:
    """The batch of the examples with these numbers."""
    features = [examples[i] for i in ids]
    for i, feature in zip(ids, features, strict=True):
        if not isinstance(feature, Mapping):
            raise TypeError(f"example {i} is a {type(feature).__name__}, not a dict of features such as input_ids.")
        if any(isinstance(value, Tensor) and value.dim() > 1 for key, value in feature.items() if key == "input_ids"):
            raise ValueError(f"example {i} looks like a batch: pass ready batches as an iterator, iter(batches).")
    return Numbered(list(ids), collator(features))


def batches(examples: Any, ids: Sequence[int] | None, size: int, collator: Collator) -> Iterator[Numbered]:
    """Batches of at most `size` examples, longest first, so that little is padded and memory runs out at once.

    Args:
        examples: what [`is_indexed`] says, or an iterable of ready batches, which come as they are.
        ids: numbers of the examples to give; None for an iterable.
        size: examples per batch.
        collator: from a list of examples to a batch.
    """
    if ids is None:
        start = 0
        for batch in examples:
            if not isinstance(batch, Mapping):
                raise TypeError(f"a batch is a {type(batch).__name__}, not a dict of tensors such as input_ids.")
            if is_single(batch):
                raise ValueError(
                    "input_ids of a batch has one dimension: an iterable must give ready batches; pass single examples "
                    "as a Dataset or a list, or collate them."
                )
            count = batch_size(batch)
            yield Numbered(list(range(start, start + count)), batch)
            start += count
        return
    lengths = {i: length(examples[i]) for i in ids}
    ordered = sorted(ids, key=lambda i: (-lengths[i], i))
    for start in range(0, len(ordered), size):
        yield pick(examples, ordered[start : start + size], collator)


def is_single(batch: Batch) -> bool:
    """Whether this is an example, not a batch of examples."""
    ids = batch.get("input_ids")
    if isinstance(ids, list):
        return all(isinstance(token, int) for token in ids)
    return getattr(ids, "ndim", 2) < 2


def length(feature: Any) -> int:
    """How long an example is: the entries of its input and its labels."""
    if not isinstance(feature, Mapping):
        return 0
    values: list[Any] = [feature.get(key) for key in ("input_ids", "labels")]
    return sum(len(value) for value in values if hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0)


def row(batch: Batch, index: int) -> dict[str, Any]:
    """The batch of just one of a batch's examples."""
    count = batch_size(batch)
    return {
        key: value[index : index + 1].clone()
        if isinstance(value, Tensor) and value.dim() and len(value) == count
        else value
        for key, value in batch.items()
    }


def to_device(batch: Batch, device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


def padding_collator(pad_token_id: int | None) -> Collator:
    """Pads features on the right: `input_ids` with the model's pad token, `labels` with -100, all else with 0.

    Right for models that read from the left, as T5 and BERT do, and for causal LMs while training.
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
                    "data_collator that knows it."
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


def number_to_pick(num_samples: int | float, count: int) -> int:
    """How many of `count` scored examples give their gradients: see FishDipConfig.num_samples.

    Of fewer examples than the least of a share, all.

    Raises:
        ValueError: there are none, or fewer than the count that is asked for.
    """
    if count == 0:
        raise ValueError("there is no example to score; pass at least one.")
    if isinstance(num_samples, float):
        return min(max(int(num_samples * count), LEAST_OF_A_SHARE), MAX_OF_A_SHARE, count)
    if num_samples > count:
        raise ValueError(
            f"there are {count} examples, too few to pick from: num_samples={num_samples} asks for {num_samples}; "
            "lower it, or give more examples."
        )
    return num_samples
