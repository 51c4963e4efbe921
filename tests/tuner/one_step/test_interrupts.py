"""A change happens as a whole or not at all, between whichever lines the user interrupts."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from peft.tuners import tuners_utils

import peft_fishdip

from .operations import OPERATIONS, Operation
from .subjects import Subject, continued, differing, made, state_of


def delete(subject: Subject, folder: Path) -> None:
    if "default" in subject.model.peft_config:
        with pytest.warns(UserWarning, match="Setting active adapter to other"):
            subject.model.delete_adapter("default")


DELETE = Operation(made, delete)
ROOT = Path(peft_fishdip.__file__).parent
CHANGES = (str(ROOT / "adapter"), str(ROOT / "tuner" / "mask_update.py"))
DELETION = (str(ROOT / "layers" / "layer.py"), tuners_utils.__file__)


class Interrupt:
    """Within, KeyboardInterrupt is raised before the k-th line in files whose names begin like one of `files`."""

    def __init__(self, k: int, files: tuple[str, ...]) -> None:
        self.left = k
        self.files = files

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self.files):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self

    def __enter__(self) -> Interrupt:
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self.before)


def check_lines(operation: Operation, folder: Path, numbers: Any, files: tuple[str, ...] = CHANGES) -> set[str]:
    """Interrupt before these lines in turn, until an attempt completes; returns the outcomes that were seen."""
    before = state_of(operation.make("gpt2"))
    changed = operation.make("gpt2")
    operation.run(changed, folder)
    after = state_of(changed)
    seen: set[str] = set()
    subject = None
    for k in numbers:
        subject, interrupt = subject or operation.make("gpt2"), Interrupt(k, files)
        try:
            with interrupt:
                operation.run(subject, folder)
        except KeyboardInterrupt:
            assert interrupt.left <= 0
        else:
            assert interrupt.left > 0
            return seen | {"completed"}
        now = state_of(subject)
        assert not differing(now, before) or not differing(now, after), (k, differing(now, before)[:5])
        seen.add("after" if differing(now, before) else "before")
        if differing(now, before):
            if "default" not in subject.model.peft_config:
                subject.model.set_adapter("other")  # PEFT had no time to choose another active one
            continued(subject)
            subject = None
    return seen


def number_of_lines(operation: Operation, folder: Path) -> int:
    subject, interrupt = operation.make("gpt2"), Interrupt(10**9, CHANGES)
    with interrupt:
        operation.run(subject, folder)
    return 10**9 - interrupt.left


def test_an_interrupt_between_lines_leaves_all_as_before_or_the_new_mask(folder: Path) -> None:
    operation = OPERATIONS["set_mask"]
    total = number_of_lines(operation, folder)
    # the writes are made near the end
    some = {*range(1, total, total // 20), *range(total - 200, total, 7), *range(total - 8, total + 2)}
    assert check_lines(operation, folder, sorted(some)) == {"before", "after", "completed"}


@pytest.mark.parametrize("stride", [53, pytest.param(1, marks=pytest.mark.slow)])
def test_an_interrupt_within_a_deletion_leaves_the_adapter_whole_or_gone(stride: int, folder: Path) -> None:
    seen = check_lines(DELETE, folder, itertools.count(1, stride), DELETION)
    assert seen == {"before", "after", "completed"}


@pytest.mark.slow
def test_an_interrupt_before_any_line_of_a_mask_change_leaves_all_as_before_or_complete(folder: Path) -> None:
    assert "completed" in check_lines(OPERATIONS["set_mask"], folder, itertools.count(1))
