"""Which threads are calling a model, so that no call computes with an adapter that it does not want.

The active adapters belong to the model and not to a thread. A switch while another thread is calling the model would
give that call some layers of each adapter, and a call after the switch of another thread would be one with a wrong
adapter. Both are errors here, for models that are called through PEFT.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

CALLS = "_fishdip_calls"
"""Attribute of a model that has its [`Calls`]."""
REMEDY = (
    "Threads that use different adapters of one model must take turns: put each call into `with "
    "model.base_model.using_adapter(name):`"
)


class Calls:
    """The calls of one model that are under way, and the adapters that each thread has chosen.

    Attributes:
        turn: held by a thread for as long as it needs its adapter.
    """

    def __init__(self) -> None:
        self.turn = threading.RLock()
        self._lock = threading.Lock()  # held while the layers are switched, so that no call begins meanwhile
        self._running: Counter[int] = Counter()  # by thread
        self._own = threading.local()
        self._last: object = None  # the mark of the thread that has switched last

    def __reduce__(self) -> tuple[Any, ...]:
        return Calls, ()  # a copy of the model is called by nobody yet

    def __deepcopy__(self, memo: Any) -> Calls:
        return Calls()

    def choose(self, adapter_names: Sequence[str]) -> None:
        """Note that this thread wants these adapters, which are active."""
        self._own.chosen = list(adapter_names)
        self._last = self._own.mark = getattr(self._own, "mark", object())

    @contextmanager
    def calling(self, active: Sequence[str]) -> Iterator[None]:
        """Within, this thread is calling the model, and others cannot switch its adapters.

        Raises:
            RuntimeError: another thread has switched adapters since this one did.
        """
        thread = threading.get_ident()
        with self._lock:
            chosen = getattr(self._own, "chosen", None)
            is_other = chosen is not None and self._last is not self._own.mark and chosen != list(active)
            if is_other and thread not in self._running:
                raise RuntimeError(
                    f"this thread has activated {chosen} by set_adapter, and another thread {list(active)} since. "
                    f"{REMEDY}; or, under a lock of your own, call set_adapter before each call, also where its "
                    "adapter is active already."
                )
            self._running[thread] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[thread] -= 1
                if not self._running[thread]:
                    del self._running[thread]

    @contextmanager
    def switching(self, adapter_names: Sequence[str]) -> Iterator[None]:
        """Within, no call begins; this thread switches to these adapters.

        Raises:
            RuntimeError: another thread is calling the model.
        """
        thread = threading.get_ident()
        with self._lock:
            if any(other != thread for other in self._running):
                raise RuntimeError(
                    f"set_adapter({list(adapter_names)}) while another thread calls the model. {REMEDY}."
                )
            yield
            self.choose(adapter_names)


def calls_of(model: nn.Module) -> Calls:
    """The calls of a model, one object for all of its tuners."""
    found: Calls | None = model.__dict__.get(CALLS)
    return model.__dict__.setdefault(CALLS, Calls()) if found is None else found
