"""The steps at which masks are chosen."""

from __future__ import annotations

import pytest

from peft_fishdip.schedule import described, next_update, update_is_due

STEPS = {
    "auto": [0, 10, 20, 40, 80, 160, 260, 360, 460],
    100: [0, 100, 200, 300, 400],
    1: list(range(500)),
    None: [0],
}


@pytest.mark.parametrize("interval", STEPS, ids=str)
def test_masks_are_due_at_these_steps(interval: int | str | None) -> None:
    assert [step for step in range(500) if update_is_due(interval, step)] == STEPS[interval]


@pytest.mark.parametrize("interval", STEPS, ids=str)
def test_the_next_update_is_the_first_one_after_a_step(interval: int | str | None) -> None:
    for step in range(361):
        assert next_update(interval, step) == next((x for x in STEPS[interval] if x > step), None)


def test_it_is_told_in_words() -> None:
    assert described("auto") == "one at optimizer steps 10, 20, 40, 80 and 160, then one every 100"
    assert described(1000) == "one every 1,000 optimizer steps"
    assert described(None) == "the first mask stays"
