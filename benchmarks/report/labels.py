"""Where labels go so that they do not cover one another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions on a line, moved as little as needed to lie `gap` apart, within the limits if there is room.

    Neighbours that are too close form a group with the wanted gaps around the mean of what they wanted; groups
    that then touch are joined.
    """
    order = sorted(range(len(positions)), key=lambda i: (positions[i], i))
    groups: list[tuple[float, int]] = []  # (sum of wanted positions, count)

    def bottom(group: tuple[float, int]) -> float:
        total, count = group
        height = (count - 1) * gap
        return max(low, min(total / count - height / 2, high - height))

    for i in order:
        groups.append((positions[i], 1))
        while len(groups) > 1 and bottom(groups[-2]) + groups[-2][1] * gap > bottom(groups[-1]):
            last = groups.pop()
            groups[-1] = (groups[-1][0] + last[0], groups[-1][1] + last[1])
    places = [bottom(group) + k * gap for group in groups for k in range(group[1])]
    result = [0.0] * len(positions)
    for i, place in zip(order, places, strict=True):
        result[i] = place
    return result


def place(points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], frame: Box) -> list[Box]:
    """A box beside each point that covers no point, no other box, and stays in the frame.

    The nearest free place counts; where there is none, the least covered one.
    """
    taken: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    result = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        options = [
            (x + shift * (width + 2 * reach) / 2 - width / 2, y + rise * reach - height / 2)
            for reach in (6, 8, 10, 13, 16, 20, 25, 31, 38, 46, 56)
            for shift, rise in itertools.chain(((1, 0), (-1, 0)), itertools.product((0, 0.5, -0.5, 1, -1), (1.2, -1.2)))
        ]
        boxes = [(left, low, left + width, low + height) for left, low in options]
        best = min(boxes, key=lambda box: sum(overlap(box, other) for other in taken) + outside(box, frame))
        taken.append(best)
        result.append(best)
    return result


def overlap(one: Box, other: Box) -> float:
    """Common area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def distance(point: tuple[float, float], box: Box) -> float:
    """From the point to the box; 0 inside."""
    across = max(box[0] - point[0], point[0] - box[2], 0.0)
    up = max(box[1] - point[1], point[1] - box[3], 0.0)
    return math.hypot(across, up)


def outside(box: Box, frame: Box) -> float:
    """Area beyond the frame, which weighs more than covering something."""
    return 5 * ((box[2] - box[0]) * (box[3] - box[1]) - overlap(box, frame))
