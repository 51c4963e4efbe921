"""Several locks at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any


@contextmanager
def all_of(locks: Sequence[AbstractContextManager[Any]]) -> Iterator[None]:
    """Within, all these locks are held; every thread takes them in the same order."""
    with ExitStack() as stack:
        for lock in sorted(locks, key=id):
            stack.enter_context(lock)
        yield
