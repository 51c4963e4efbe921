"""What a model can read: sources that are too long, and names that a tokenizer changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .base import Problem, Task
from .checks import shown
from .places import part, word_edges
from .records import JointExample, NerExample

E = TypeVar("E")
T = TypeVar("T", NerExample, JointExample)


@dataclass(frozen=True)
class Source(Generic[E]):
    """Token ids of a source, the part of the example that they tell of, and how many tokens the whole has."""

    ids: list[int]
    read: E
    num_tokens: int
    problems: tuple[Problem, ...]


def read_sources(
    task: Task[E], coder: Any, examples: Sequence[E], max_length: int, truncation_side: str | None = None
) -> list[Source[E]]:
    """Sources of at most `max_length` tokens. Longer ones are shortened as the task says, with a "source_cut".

    `coder` is a `coders.Coder`.
    """

    def fits(text: str) -> bool:
        return len(coder.sources([text])[0]) <= max_length

    sources = []
    whole = coder.sources([task.source(example) for example in examples])
    for example, ids in zip(examples, whole, strict=True):
        read, length = example, len(ids)
        problems: tuple[Problem, ...] = ()
        if length > max_length:
            read = task.shorten(example, fits)
            ids = coder.cut_source(task.source(read), max_length, truncation_side or task.truncation_side)
            problems = (source_cut(length, max_length),)
        sources.append(Source(list(ids), read, length, problems))
    return sources


def source_cut(length: int, max_length: int) -> Problem:
    return Problem(
        "source_cut", f"the source has {length} tokens, of which the model has not read more than {max_length}"
    )


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


def shortened(example: T, fits: Callable[[T], bool]) -> T:
    """The first words of an example, as many as fit, and what stands on them."""
    edges = word_edges(example)
    return part(example, 0, edges[longest(lambda count: fits(part(example, 0, edges[count])), len(edges) - 1)])


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


def position_limit(model: Any, tokenizer: Any, soft: bool) -> int | None:
    """The most tokens that a model can read in one row, as far as its config tells.

    With `soft`, the tokenizer's limit counts as well: for encoders, whose first positions may be taken.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = [getattr(text, "max_position_embeddings", None), tokenizer.model_max_length if soft else None]
    known = [int(limit) for limit in limits if isinstance(limit, int) and 0 < limit < 10**9]
    return min(known, default=None)


def source_room(model: Any, tokenizer: Any, max_source_length: int, to_write: int = 0) -> int:
    """How many tokens a source may have: at most `max_source_length`, and what the model can read.

    A decoder-only model reads the source and writes at most `to_write` tokens in the same row.

    Raises:
        ValueError: nothing is left for a source.
    """
    if model is None:
        return max_source_length
    one_row = not getattr(model.config, "is_encoder_decoder", False)
    limit = position_limit(model, tokenizer, soft=one_row and not to_write)
    if limit is None:
        return max_source_length
    room = limit - to_write if one_row else limit
    if room < 1:
        raise ValueError(
            f"{type(model).__name__} reads and writes at most {limit} tokens in one row, which leaves none for a "
            f"source beside {to_write} that may be written; pass a smaller max_new_tokens or max_target_length"
        )
    return min(max_source_length, room)


def check_side(truncation_side: object) -> None:
    """Raise ValueError for what is no end of a text; None stands for the one that the task chooses."""
    if truncation_side not in (None, "left", "right"):
        raise ValueError(f"truncation_side={shown(truncation_side)}: choose 'left' or 'right'")
