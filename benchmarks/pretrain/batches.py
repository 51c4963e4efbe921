"""The batch of a step, a pure function of shards, settings and step: whatever was interrupted goes on with the same
rows.

A step has two parts of fixed shapes. *Spans*: windows of text, cut at equal distances, whatever sentences are in them.
*Denoising*: whole sentences of similar length, padded to one of four widths. In every pass over its part each window,
each sentence comes once at most (a batch that is not full is left out), in a new order; windows begin at another
offset.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..settings import SettingsError
from ..vocabulary import EOS, PAD
from .corruption import IGNORED, Ids, corrupt_spans, denoising_rows, span_shape
from .settings import RunSettings
from .shards import Split

SPANS, DENOISING = 0, 1
WIDTHS = 4


@dataclass(frozen=True)
class Part:
    """Sources and labels of one kind; int64 of shape (rows, source length), (rows, target length)."""

    input_ids: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Part:
        if device.type == "cpu":
            return self
        return Part(*(x.pin_memory().to(device, non_blocking=True) for x in (self.input_ids, self.labels)))


@dataclass(frozen=True)
class Batch:
    parts: dict[str, Part]
    """`spans` and `denoising`, or one of them."""
    tokens: int
    """Clean tokens of text (or of scrambled rows) that the step reads."""
    targets: int
    """Labels that count."""


class Windows:
    """Windows of equal length of one part of the shards; pass after pass."""

    def __init__(self, split: Split, length: int, rows: int, seed: int) -> None:
        self.split, self.length, self.rows, self.seed = split, length, rows, seed
        self.sizes = np.array([len(shard) for shard in split.tokens])
        # the offset of a pass takes up to length - 1 tokens of each shard
        self.per_shard = np.maximum(0, (self.sizes - (length - 1)) // length)
        self.steps = int(self.per_shard.sum()) // rows if rows else 0
        """Steps of a pass."""
        self.current: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        if rows and not self.steps:
            raise SettingsError(
                f"the {split.name} part has too few tokens ({split.num_tokens}) "
                f"for a batch of {rows} windows of {length}"
            )

    def batch(self, step: int) -> Ids:
        """Clean ids of shape (rows, length)."""
        number, index = divmod(step, self.steps)
        if self.current is None or self.current[0] != number:
            rng = np.random.default_rng([self.seed, SPANS, number])
            offset = int(rng.integers(self.length))
            shard = np.repeat(np.arange(len(self.sizes)), self.per_shard)
            start = np.concatenate([np.arange(count) * self.length + offset for count in self.per_shard])
            order = rng.permutation(len(shard))
            self.current = number, shard[order], start[order]
        chosen = slice(index * self.rows, (index + 1) * self.rows)
        return self.split.gather(self.current[1][chosen], self.current[2][chosen], self.length)


class Sentences:
    """Sentences of one part of the shards in batches of similar length; pass after pass.

    Args:
        longest: tokens of the longest sentence with its end; a multiple of 4.
        tokens: places of a batch's source: a batch of width w has tokens // w rows.
    """

    def __init__(self, split: Split, longest: int, tokens: int, seed: int) -> None:
        self.split, self.seed = split, seed
        shards, starts, lengths = [], [], []
        for number, ends in enumerate(split.ends):
            stops = ends.astype(np.int64)
            first = np.concatenate([[0], stops[:-1]])
            shards.append(np.full(len(stops), number))
            starts.append(first)
            lengths.append(stops - first)
        self.shard, self.start, self.length = (np.concatenate(x) for x in (shards, starts, lengths))
        self.widths = [longest * (i + 1) // WIDTHS for i in range(WIDTHS)]
        self.members, self.rows = [], []
        shorter = 0
        for width in self.widths:
            fits = np.flatnonzero((self.length + 1 > shorter) & (self.length + 1 <= width))
            rows = max(1, tokens // width)
            self.members.append(fits)
            self.rows.append(rows)
            shorter = width
        self.per_width = [len(members) // rows for members, rows in zip(self.members, self.rows, strict=True)]
        self.steps = sum(self.per_width)
        self.current: tuple[int, list[NDArray[np.int64]], NDArray[np.int64], NDArray[np.int64]] | None = None
        if not self.steps:
            raise SettingsError(
                f"the {split.name} part has too few sentences of up to {longest} tokens for a batch of {tokens} tokens"
            )

    def batch(self, step: int) -> tuple[Ids, Ids]:
        """Clean ids of shape (rows, width), padded, and the tokens of each sentence, shape (rows,)."""
        number, index = divmod(step, self.steps)
        if self.current is None or self.current[0] != number:
            rng = np.random.default_rng([self.seed, DENOISING, number])
            orders = [rng.permutation(members) for members in self.members]
            widths = np.repeat(np.arange(WIDTHS), self.per_width)
            within = np.concatenate([np.arange(count) for count in self.per_width])
            mixed = rng.permutation(len(widths))
            self.current = number, orders, widths[mixed], within[mixed]
        _, orders, widths, within = self.current
        width, place = int(widths[index]), int(within[index])
        rows = self.rows[width]
        return self.take(orders[width][place * rows : (place + 1) * rows], self.widths[width])

    def take(self, chosen: NDArray[np.int64], width: int) -> tuple[Ids, Ids]:
        """The sentences of these numbers, padded to a width."""
        clean = np.full((len(chosen), width), PAD, dtype=np.int64)
        for row, number in enumerate(chosen.tolist()):
            start, length = int(self.start[number]), int(self.length[number])
            clean[row, :length] = self.split.tokens[self.shard[number]][start : start + length]
        return clean, self.length[chosen]


class Batches:
    """All batches of a run."""

    def __init__(self, split: Split, settings: RunSettings, vocab_size: int) -> None:
        self.settings, self.vocab_size = settings, vocab_size
        self.shape = span_shape(settings)
        places = round(settings.denoising_share * settings.batch_size * settings.length)
        rows = settings.batch_size - round(settings.denoising_share * settings.batch_size)
        self.windows = Windows(split, self.shape.window, rows, settings.seed) if rows else None
        self.sentences = Sentences(split, settings.denoising_length, places, settings.seed) if places else None

    def __call__(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        parts: dict[str, Part] = {}
        tokens = targets = 0
        if self.windows:
            clean = self.windows.batch(step)
            rng = generator(self.settings.seed, SPANS, step)
            source, target = corrupt_spans(clean, self.shape, self.vocab_size, rng)
            parts["spans"] = part(source, target)
            tokens += clean.size
            targets += target.size
        if self.sentences:
            clean, lengths = self.sentences.batch(step)
            rng = generator(self.settings.seed, DENOISING, step)
            source, labels, _ = denoising_rows(clean, lengths, self.settings, self.vocab_size, rng)
            parts["denoising"] = part(source, labels)
            tokens += int(lengths.sum())
            targets += int((labels != IGNORED).sum())
        return Batch(parts, tokens, targets)


def generator(seed: int, kind: int, step: int) -> np.random.Generator:
    """Random numbers of one part of one step, independent of those of the orders."""
    return np.random.default_rng([seed, kind, step, 1])


def part(source: Ids, labels: Ids) -> Part:
    return Part(torch.from_numpy(source), torch.from_numpy(labels))


def copies(clean: Ids, lengths: Ids) -> Part:
    """Sentences as they are, as source and as target."""
    place = np.arange(clean.shape[1])
    ended = np.where(place == lengths[:, None], EOS, clean)
    return part(ended, np.where(place <= lengths[:, None], ended, IGNORED))


def ahead(batches: Callable[[int], Batch], first: int, depth: int = 4) -> Generator[Batch, None, None]:
    """Batches from step `first` on without end, made by another thread while the caller computes."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        waiting: list[Future[Batch]] = []
        step = first
        try:
            while True:
                while len(waiting) < depth:
                    waiting.append(pool.submit(batches, step))
                    step += 1
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
