"""Low-resource protocols: nested fractions of a training set."""

from __future__ import annotations

import random


def fraction_indices(size: int, fraction: float, seed: int) -> list[int]:
    """Positions of a random `fraction` of `size` examples, in the order drawn.

    As the reference: shuffle all positions by the seed, take the first round(fraction * size). Fractions
    of one seed are therefore nested. Raises ValueError where nothing would be left.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction!r}: give a share above 0 and up to 1, e.g. 0.01 for 1 %")
    count = round(fraction * size)
    if count == 0:
        raise ValueError(
            f"fraction={fraction!r} of {size} examples rounds to none; take at least {1 / size:g}"
        )
    indices = list(range(size))
    random.Random(seed).shuffle(indices)
    return indices[:count]
