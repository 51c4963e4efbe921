"""At which optimizer steps a mask is chosen anew."""

from __future__ import annotations

from typing import Final, Literal

AUTO: Final = "auto"
FIRST, LONGEST = 10, 100
"""With AUTO: steps from the first mask to the second, and the most between two masks, which is the paper's interval."""

Interval = int | Literal["auto"] | None


def next_update(interval: Interval, step: int) -> int | None:
    """The first step after `step` at which a mask is due, counted from 0, the step of the first mask.

    With "auto" at 10, 20, 40, 80, 160 and from then on every 100 steps: a model changes most at the beginning, and a
    short training moves its mask too. With an int at its multiples; with None never again.
    """
    if interval is None:
        return None
    if isinstance(interval, int):
        return (step // interval + 1) * interval
    due = FIRST
    while due <= step:
        due += min(due, LONGEST)
    return due


def update_is_due(interval: Interval, step: int) -> bool:
    """Whether a mask is chosen before this step."""
    return step == 0 or next_update(interval, step - 1) == step


def described(interval: Interval) -> str:
    """When masks are chosen, in words."""
    if interval is None:
        return "the first mask stays"
    if isinstance(interval, int):
        return f"one every {interval:,} optimizer steps"
    return "one at optimizer steps 10, 20, 40, 80 and 160, then one every 100"
