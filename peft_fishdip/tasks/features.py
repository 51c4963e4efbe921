"""Examples as token ids, ready for a data collator."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

from .base import Task
from .generation import check_positive, encode_sources

E = TypeVar("E")


def to_features(
    task: Task[E],
    tokenizer: Any,
    examples: Sequence[E],
    *,
    max_source_length: int = 512,
    max_target_length: int = 512,
) -> list[dict[str, list[int]]]:
    """`input_ids`, `attention_mask` and `labels` of each example, unpadded, for DataCollatorForSeq2Seq.

    Sources that are too long are cut on the task's side, targets at their end. Warns of targets cut and of
    what the targets cannot carry (crossing spans and the like), with counts.
    """
    check_positive(max_source_length=max_source_length, max_target_length=max_target_length)
    encoded = [task.encode(example) for example in examples]
    if not encoded:
        return []
    sources = encode_sources(tokenizer, [e.source for e in encoded], max_source_length, task.truncation_side)
    targets = tokenizer(text_target=[e.target for e in encoded], verbose=False)["input_ids"]
    lost = Counter(problem.kind for e in encoded for problem in e.problems)
    lost["target_cut"] = sum(len(target) > max_target_length for target in targets)
    if +lost:
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted((+lost).items()))
        warnings.warn(f"{len(encoded)} examples, with {counts}; see `task.encode` for each", stacklevel=2)
        targets = tokenizer(text_target=[e.target for e in encoded], truncation=True, max_length=max_target_length)[
            "input_ids"
        ]
    return [
        {"input_ids": list(source), "attention_mask": [1] * len(source), "labels": list(target)}
        for source, target in zip(sources, targets, strict=True)
    ]
