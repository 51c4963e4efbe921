"""Numbers that stand for objects: the operators of a compiled graph take only tensors and numbers."""

from __future__ import annotations

from itertools import count
from typing import Any
from weakref import WeakValueDictionary

_named: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = count()


def handle_of(thing: Any) -> int:
    """A new number for an object, valid as long as it lives."""
    number = next(_numbers)
    _named[number] = thing
    return number


def named(handle: int) -> Any:
    """The object of that number.

    Raises:
        ValueError: it is gone.
    """
    try:
        return _named[handle]
    except KeyError:
        raise ValueError(
            f"a compiled graph asks for the object {handle} of a Fish-Dip adapter, which this process does not have: "
            "the adapter was deleted, or the graph belongs to another process. Compile the model again; to give a "
            "program to others, export the model that merge_and_unload() returns."
        ) from None
