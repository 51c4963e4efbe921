"""A change happens as a whole or not at all, whichever tensor operation fails."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .operations import OPERATIONS, Operation
from .subjects import Bits, Subject, continued, differing, state_of


class FailAt(TorchDispatchMode):
    """Within, the n-th tensor operation fails: before it is done for want of memory, or interrupted just after it."""

    def __init__(self, n: int, error: type[BaseException]) -> None:
        super().__init__()
        self.left = n
        self.error = error

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left == 0 and self.error is MemoryError:
            raise MemoryError
        result = func(*args, **(kwargs or {}))
        if self.left == 0:
            raise self.error
        return result


def outcome(subject: Subject) -> tuple[Bits, Bits]:
    return state_of(subject), continued(subject)


def check_sweep(
    family: str, operation: Operation, folder: Path, error: type[BaseException], numbers: Any, thorough: int = 1
) -> set[str]:
    """Fail at the numbers in turn, until an attempt completes.

    A model that is bitwise as before is failed again; every `thorough`-th one is trained on, or the operation retried.

    Returns:
        Which outcomes were seen.
    """
    before = outcome(operation.make(family))
    changed = operation.make(family)
    operation.run(changed, folder)
    after = outcome(changed)
    assert differing(before[0], after[0])  # the operation does something
    seen: set[str] = set()
    subject = None
    for index, n in enumerate(numbers):
        subject, mode = subject or operation.make(family), FailAt(n, error)
        try:
            with mode:
                operation.run(subject, folder)
        except BaseException:  # torch and safetensors raise errors of their own from it
            if mode.left > 0:
                raise
        else:
            assert mode.left > 0  # no failure was swallowed
            seen.add("completed")
        now = state_of(subject)
        if not differing(now, after[0]):
            kind = "after"
        elif not differing(now, before[0]):
            kind = "before"
        elif operation.can_stop_between and "new" in subject.model.peft_config:
            kind = "not loaded"
            assert [key for key in differing(now, before[0]) if "new" not in key and key != "names"] == [], n
        else:
            raise AssertionError((n, differing(now, before[0])[:5], differing(now, after[0])[:5]))
        assert kind == "after" or "completed" not in seen
        seen.add(kind)
        if index % thorough and kind == "before":
            continue
        if index // thorough % 2 and kind != "not loaded":
            assert differing(continued(subject), {"before": before, "after": after}[kind][1]) == [], n
        elif kind != "after":
            operation.run(subject, folder)  # the next try
            assert differing(state_of(subject), after[0]) == [], n
        subject = None
        if "completed" in seen:
            return seen
    return seen


class Count(TorchDispatchMode):
    """Counts tensor operations, and notes which ones write into vectors of adapters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.total = 0
        self.vectors = {tensor.data_ptr() for name, tensor in model.named_parameters() if "fishdip" in name}
        self.writes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.total += 1
        if func is torch.ops.aten.copy_.default and args[0].data_ptr() in self.vectors:
            self.writes.append(self.total)
        return func(*args, **(kwargs or {}))


def some_operations(operation: Operation, folder: Path) -> list[int]:
    """Numbers all over the operation, around the first writes, at the end, and beyond it."""
    subject = operation.make("gpt2")
    with Count(subject.model) as count:
        operation.run(subject, folder)
    total = count.total
    around = {n + by for n in count.writes[:3] for by in (-1, 0, 1)}
    return sorted({*range(1 + total % 7, total, max(1, total // 12)), *around, *range(total - 6, total + 2), 2 * total})


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failure_leaves_all_as_before_or_the_change_complete(
    name: str, error: type[BaseException], folder: Path
) -> None:
    operation = OPERATIONS[name]
    seen = check_sweep("gpt2", operation, folder, error, some_operations(operation, folder), thorough=5)
    assert "completed" in seen


@pytest.mark.slow
@pytest.mark.parametrize(("family", "stride"), [("gpt2", 1), ("t5", 23)])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failure_anywhere_leaves_all_as_before_or_the_change_complete(
    name: str, error: type[BaseException], family: str, stride: int, folder: Path
) -> None:
    numbers = itertools.count(1, 7 * stride if name.startswith("update_mask") else stride)  # it has many more
    assert "completed" in check_sweep(family, OPERATIONS[name], folder, error, numbers, thorough=50)
