"""How much faster `align` is than the plain dynamic programme, on sentences of a CoNLL04 file.

Run in the repository: `python -m tests.tasks.alignment_speed <conll04_train.json> [pairs]`.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

from peft_fishdip.tasks import align, read_conll04

from .plain_alignment import plain_align

Pair = tuple[list[str], list[str]]


def edited_pairs(sentences: list[list[str]], count: int, edits: int, seed: int = 0) -> list[Pair]:
    """Pairs of a sentence and a copy with `edits` words replaced, left out or put in."""
    generator = random.Random(seed)
    pairs = []
    for number in range(count):
        tokens = sentences[number % len(sentences)]
        output = list(tokens)
        for _ in range(edits):
            at = generator.randrange(len(output) + 1)
            output[at : at + generator.randrange(2)] = generator.sample(tokens, generator.randrange(2))
        pairs.append((tokens, output))
    return pairs


def unrelated_pairs(sentences: list[list[str]], count: int) -> list[Pair]:
    """Pairs of a sentence and the next one of the file."""
    size = len(sentences)
    return [(sentences[i % size], sentences[(i + 1) % size]) for i in range(count)]


def seconds(method: Callable[..., object], pairs: list[Pair]) -> float:
    start = time.perf_counter()
    for tokens, output in pairs:
        method(tokens, output)
    return time.perf_counter() - start


def main(path: str, count: int = 10_000) -> None:
    sentences = [list(example.tokens) for example in read_conll04(path)]
    mean = sum(map(len, sentences)) / len(sentences)
    print(f"{count} pairs, {mean:.1f} tokens per sentence on average")
    print("| output | plain, s | align, s | faster |\n|---|--:|--:|--:|")
    kinds = {f"{edits} edits": edited_pairs(sentences, count, edits) for edits in (0, 1, 3, 10)}
    kinds["another sentence"] = unrelated_pairs(sentences, count)
    for name, pairs in kinds.items():
        assert all(align(*pair) == plain_align(*pair) for pair in pairs[:200])
        fast, plain = seconds(align, pairs), seconds(plain_align, pairs)
        print(f"| {name} | {plain:.2f} | {fast:.3f} | {plain / fast:.0f} x |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
