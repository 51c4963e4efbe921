"""Changes that are made as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor


class Write(NamedTuple):
    """One write and how to undo it. Neither allocates memory for tensors; both may be repeated."""

    do: Callable[[], object]
    undo: Callable[[], object]


def apply_all(writes: Iterable[Write]) -> None:
    """Make all writes in order. If one fails or is interrupted, undo those that were begun and raise."""
    begun: list[Callable[[], object]] = []
    try:
        for write in writes:
            begun.append(write.undo)
            write.do()
    except BaseException:
        for undo in reversed(begun):
            repeat_once(undo)
        raise


def repeat_once(work: Callable[[], object]) -> None:
    """Call `work`; if it is interrupted, call it again before the interrupt goes on. For work that must be done."""
    try:
        work()
    except BaseException:
        work()
        raise


def assign(owner: Any, name: str, value: Any) -> Write:
    """Set an attribute."""
    before = getattr(owner, name)
    return Write(lambda: setattr(owner, name, value), lambda: setattr(owner, name, before))


def put(mapping: dict[Any, Any], key: Any, value: Any) -> Write:
    """Set an entry of a dict."""
    if key not in mapping:
        return Write(lambda: mapping.__setitem__(key, value), lambda: mapping.pop(key, None))
    before = mapping[key]
    return Write(lambda: mapping.__setitem__(key, value), lambda: mapping.__setitem__(key, before))


def copy_into(tensor: Tensor, values: Tensor) -> Write:
    """Overwrite a tensor in place with values of its shape."""
    before = tensor.detach().clone()
    values = values.to(tensor)
    # of the detached tensor: no gradient mode has to be entered, which an interrupt might not leave again
    return Write(lambda: tensor.detach().copy_(values), lambda: tensor.detach().copy_(before))
