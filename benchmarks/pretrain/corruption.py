"""Span corruption as in T5, and whole sentences to restore or to copy: arrays of ids in, sources and targets out.

Sentinels. `<extra_id_i>` is id `vocab_size - 1 - i`. Span corruption numbers its spans upward from `<extra_id_0>`, so
ids fall along the sequence, as in T5. Denoising numbers what it takes out downward from `<extra_id_99>`, so ids rise:
thus the source tells which of the two targets is asked for, the spans alone or the whole sentence.

Why these rows should teach copying (reasons, not measurements: `copied_tokens` in the log is the test). The tasks'
targets are their sources with pieces put in between, so at every step a decoder has to find the place in the source
that it has reached, and to choose between going on there and putting something in.

- *Dropout* leaves no trace of what is missing: it is this very choice, at every step. *Masks* (a sentinel for each
  missing token) and *spans* (one for several) give the place away, the masks the count as well: an easier way in.
- The share of missing tokens is drawn anew for each row, from none upward: most of a target is always there to be
  copied.
- *Copies* lose nothing. In half of them the pieces are drawn at random: knowledge of language is of no help then, only
  attention to the source lowers the loss, and rare pieces, of which names are made, take part as often as common ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..settings import SettingsError
from ..vocabulary import EOS, PAD, UNK
from .settings import SENTINELS, RunSettings

IGNORED = -100
"""Label of a position that is no part of the target."""
KINDS = ("copy", "scrambled", "dropout", "masks", "spans")

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SpanShape:
    """The lengths that all rows of span corruption share; no padding is needed."""

    window: int
    """Clean tokens."""
    noise: int
    """Tokens that are taken out."""
    spans: int
    source: int
    """window - noise + spans + 1: kept tokens, a sentinel for each span, end."""
    target: int
    """noise + spans + 2: spans, each after its sentinel, a last sentinel, end."""


def span_shape(settings: RunSettings) -> SpanShape:
    """The longest window whose source fits into `settings.length`; rounding as in T5's `random_spans_noise_mask`.

    Raises:
        SettingsError: there is none, or it needs more sentinels than there are.
    """
    best = None
    window = 2
    while True:
        noise = min(max(round(window * settings.noise_density), 1), window - 1)
        spans = min(max(round(noise / settings.mean_span), 1), window - noise)
        if window - noise + spans + 1 > settings.length:
            break
        best = SpanShape(window, noise, spans, window - noise + spans + 1, noise + spans + 2)
        window += 1
        if window > 100 * settings.length:
            break
    if best is None or best.spans + 1 > SENTINELS:
        raise SettingsError(
            f"length={settings.length} with noise_density={settings.noise_density} and mean_span={settings.mean_span} "
            f"needs {0 if best is None else best.spans + 1} sentinels; there are {SENTINELS}"
        )
    return best


def segmentation(rows: int, items: int, segments: int, rng: Generator) -> Ids:
    """`items` divided into `segments` parts of at least one, uniformly over all divisions; shape (rows, segments)."""
    cuts = np.argsort(rng.random((rows, items - 1)), axis=1)[:, : segments - 1] + 1
    edges = np.concatenate([np.zeros((rows, 1), int), np.sort(cuts, axis=1), np.full((rows, 1), items)], axis=1)
    return np.diff(edges, axis=1)


def noise_mask(rows: int, shape: SpanShape, rng: Generator) -> Mask:
    """Which tokens are taken out: kept and noise spans take turns, a kept one begins; shape (rows, window)."""
    kept = segmentation(rows, shape.window - shape.noise, shape.spans, rng)
    noise = segmentation(rows, shape.noise, shape.spans, rng)
    starts = np.cumsum(np.stack([kept, noise], axis=2).reshape(rows, -1), axis=1)[:, :-1]
    change = np.zeros((rows, shape.window), dtype=np.int64)
    np.put_along_axis(change, starts, 1, axis=1)
    mask: Mask = np.cumsum(change, axis=1) % 2 == 1
    return mask


def corrupt_spans(windows: Ids, shape: SpanShape, vocab_size: int, rng: Generator) -> tuple[Ids, Ids]:
    """Source and target of T5's span corruption (Raffel et al. 2020, section 3.1.4 and figure 2).

    Source: the window with each noise span replaced by one sentinel, then the end. Target: each sentinel followed by
    its span, then one more sentinel, then the end.

    Args:
        windows: clean ids of shape (rows, shape.window).

    Returns:
        ids of shape (rows, shape.source) and (rows, shape.target); nothing is padded.
    """
    rows = len(windows)
    mask = noise_mask(rows, shape, rng)
    first = mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    sentinel = vocab_size - np.cumsum(first, axis=1)  # of the latest span: <extra_id_0> has the highest id
    column = np.full((rows, 1), EOS)
    source = np.where(first, sentinel, windows)[~mask | first].reshape(rows, -1)
    pairs = np.stack([sentinel, windows], axis=2)
    target = pairs[np.stack([first, mask], axis=2)].reshape(rows, -1)
    last = np.full((rows, 1), vocab_size - 1 - shape.spans)
    return np.concatenate([source, column], axis=1), np.concatenate([target, last, column], axis=1)


def denoising_rows(
    clean: Ids, lengths: Ids, settings: RunSettings, vocab_size: int, rng: Generator
) -> tuple[Ids, Ids, Ids]:
    """Whole sentences as targets, and sources of which each row has lost something in one of five ways.

    Args:
        clean: ids of shape (rows, length), sentence by sentence, padded at the right; at least one place is padding.
        lengths: tokens of each sentence, shape (rows,).

    Returns:
        sources of the same shape, with an end and padding; labels of the same shape: sentence, end, then -100; and the
        kind of each row as an index into `KINDS`, shape (rows,).
    """
    rows, width = clean.shape
    place = np.arange(width)
    inside: Mask = place < lengths[:, None]
    copy = rng.random((rows,)) < settings.copy_share
    scrambled = copy & (rng.random((rows,)) < settings.scrambled_share)
    kinds: Ids = np.where(copy, np.where(scrambled, 1, 0), rng.integers(2, len(KINDS), rows))
    random_pieces = rng.integers(UNK + 1, vocab_size - SENTINELS, clean.shape)
    clean = np.where(inside, np.where(scrambled[:, None], random_pieces, clean), PAD)

    gone = missing(inside, lengths, kinds, settings, rng)
    marked = gone & (kinds >= 3)[:, None]
    first = marked & ~(np.pad(marked, ((0, 0), (1, 0)))[:, :-1] & (kinds == 4)[:, None])
    sentinel = vocab_size - SENTINELS - 1 + np.cumsum(first, axis=1)  # <extra_id_99> has the lowest id
    source = np.where(first, sentinel, clean)
    source, kept = squeezed(source, (inside & ~gone) | first)
    source = np.where(place == kept[:, None], EOS, source)
    labels = np.where(inside, clean, np.where(place == lengths[:, None], EOS, IGNORED))
    return source, labels, kinds


def missing(inside: Mask, lengths: Ids, kinds: Ids, settings: RunSettings, rng: Generator) -> Mask:
    """Which tokens each row loses; never all of them."""
    rows, width = inside.shape
    share = rng.random((rows, 1)) * settings.corruption
    single = rng.random((rows, width)) < share
    # spans: lengths are geometric, so a token begins one, or goes on with one, by chance alone; the share is kept
    starts = rng.random((rows, width)) < share / settings.mean_span / (1 - share)
    goes_on = rng.random((rows, width)) < 1 - 1 / settings.mean_span
    several = np.zeros((rows, width), dtype=bool)
    for i in range(width):
        several[:, i] = np.where(several[:, i - 1], goes_on[:, i], starts[:, i]) if i else starts[:, i]
    gone: Mask = np.where((kinds == 4)[:, None], several, single) & inside & (kinds >= 2)[:, None]
    gone = gone & (np.cumsum(gone, axis=1) <= SENTINELS)
    return gone & (gone.sum(axis=1) < lengths)[:, None]


def squeezed(ids: Ids, keep: Mask) -> tuple[Ids, Ids]:
    """Kept entries moved to the left, the rest padding; and how many each row has kept."""
    order = np.argsort(~keep, axis=1, kind="stable")
    count = keep.sum(axis=1)
    moved = np.take_along_axis(ids, order, axis=1)
    return np.where(np.arange(ids.shape[1]) < count[:, None], moved, PAD), count
