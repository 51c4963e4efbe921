"""Numbers that name objects: the operators of a compiled graph take tensors and numbers alone."""

from __future__ import annotations

from itertools import count
from typing import Any
from weakref import WeakValueDictionary

_named: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = count()


def handle_of(thing: Any) -> int:
    """A new number for this object, as long as it lives."""
    number = next(_numbers)
    _named[number] = thing
    return number


def named(handle: int) -> Any:
    """The object of that number.

    Raises:
        KeyError: it is gone.
    """
    return _named[handle]
