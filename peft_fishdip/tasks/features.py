"""Examples as token ids, ready for a data collator."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

from .base import Task
from .generation import check_positive
from .lengths import check_tokenizer, read_sources, text_of
from .text import fold, normalize

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

    Of a source that is too long, the part that the task chooses is read, and the target tells of that part; a target
    that is too long is cut at its end. One warning counts these ("source_cut", "target_cut"), the targets that the
    tokenizer changes so that they read otherwise ("tokenizer_change"), and what targets cannot carry (crossing spans
    and the like). Raises ValueError if the tokenizer cannot write the names of the task's labels.
    """
    check_positive(max_source_length=max_source_length, max_target_length=max_target_length)
    encoded = [task.encode(example) for example in examples]
    if not encoded:
        return []
    check_tokenizer(task, tokenizer)
    sources = read_sources(task, tokenizer, examples, max_source_length)
    texts = [task.target(s.read)[0] if s.problems else e.target for s, e in zip(sources, encoded, strict=True)]
    targets = list(tokenizer(text_target=texts, verbose=False)["input_ids"])
    lost = Counter(problem.kind for e in encoded for problem in e.problems)
    lost["source_cut"] = sum(bool(source.problems) for source in sources)
    for number, (source, text, target) in enumerate(zip(sources, texts, targets, strict=True)):
        lost["tokenizer_change"] += _reads_otherwise(task, source.read, text, text_of(tokenizer, target))
        if len(target) > max_target_length:
            lost["target_cut"] += 1
            targets[number] = tokenizer(text_target=text, truncation=True, max_length=max_target_length)["input_ids"]
    if +lost:
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted((+lost).items()))
        remedies = "; ".join(_REMEDIES[kind] for kind in _REMEDIES if lost[kind])
        remedies = f" ({remedies})" if remedies else ""
        warnings.warn(f"{len(encoded)} examples, with {counts}{remedies}; see `task.encode` for each", stacklevel=2)
    return [
        {"input_ids": source.ids, "attention_mask": [1] * len(source.ids), "labels": list(target)}
        for source, target in zip(sources, targets, strict=True)
    ]


_REMEDIES = {
    "source_cut": "what is cut from a source is not learnt: pass a larger max_source_length or split these examples",
    "target_cut": "what is cut from a target is not learnt: pass a larger max_target_length or split these examples",
    "tokenizer_change": "the tokenizer lacks characters of some values: choose another tokenizer or other values",
}


def _reads_otherwise(task: Task[E], example: E, text: str, written: str) -> bool:
    """Does a target say something else, beyond normalisation, when it comes out of the tokenizer?"""
    if fold(text) == fold(written):
        return False
    before, after = (task.decode(example, x).prediction for x in (text, written))
    return normalize(repr(before)) != normalize(repr(after))
