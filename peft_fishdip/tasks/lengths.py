"""What a model can read and write: sources and targets that are too long, or that a tokenizer changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .base import Problem, Task

E = TypeVar("E")


@dataclass(frozen=True)
class Source(Generic[E]):
    """Token ids of a source, the part of the example that they tell of, and how many tokens the whole has."""

    ids: list[int]
    read: E
    num_tokens: int
    problems: tuple[Problem, ...]


def read_sources(
    task: Task[E], tokenizer: Any, examples: Sequence[E], max_length: int, truncation_side: str | None = None
) -> list[Source[E]]:
    """Sources of at most `max_length` tokens. Longer ones are shortened as the task says, with a "source_cut"."""
    if not examples:
        return []

    def fits(text: str) -> bool:
        return len(tokenizer(text, verbose=False)["input_ids"]) <= max_length

    sources = []
    whole = token_ids(tokenizer, [task.source(example) for example in examples])
    for example, ids in zip(examples, whole, strict=True):
        read, length = example, len(ids)
        problems: tuple[Problem, ...] = ()
        if length > max_length:
            read = task.shorten(example, fits)
            (ids,) = cut(tokenizer, [task.source(read)], max_length, truncation_side or task.truncation_side)
            message = f"the source has {length} tokens, of which the model has not read more than {max_length}"
            problems = (Problem("source_cut", message),)
        sources.append(Source(list(ids), read, length, problems))
    return sources


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of whole texts, with special tokens."""
    return list(tokenizer(list(texts), verbose=False)["input_ids"]) if texts else []


def cut(tokenizer: Any, texts: Sequence[str], max_length: int, side: str) -> list[list[int]]:
    """Token ids of each text, cut to `max_length` at the given side; special tokens are kept."""
    if not texts:
        return []
    before, tokenizer.truncation_side = tokenizer.truncation_side, side
    try:
        encoded = tokenizer(list(texts), truncation=True, max_length=max_length)
    finally:
        tokenizer.truncation_side = before
    return list(encoded["input_ids"])


def sources_cut(lengths: Sequence[int], max_length: int, option: str = "max_source_length") -> str:
    """What to tell of sources of these lengths; "" if none is too long."""
    long = [length for length in lengths if length > max_length]
    if not long:
        return ""
    return (
        f"{len(long)} of {len(lengths)} sources are longer than {option}={max_length} and were cut (source_cut): "
        f"nothing in what was cut is found. Split the texts, or pass {option}={max(long)} if the model reads as much"
    )


def longest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, if smaller ones fit as well; 0 if none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of generated token ids, without padding, end mark and sentinels but with `<unk>`.

    A word the vocabulary lacks stays a word that way, and is aligned to the one it stands for.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.discard(tokenizer.unk_token_id)
    kept = [i for i in ids if i not in special]
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def check_tokenizer(task: Task[Any], tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot write the names of the task's labels."""
    task.check_tokenizer(lambda text: text_of(tokenizer, tokenizer(text, verbose=False)["input_ids"]))
