"""Work that an optimizer's step does once the gradients are there: also if a closure computes them within the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

HookResult = tuple[tuple[Any, ...], dict[str, Any]] | None
"""New arguments of the step, or None: what a hook before it may return."""


def once_gradients_are_there(args: tuple[Any, ...], kwargs: dict[str, Any], work: Callable[[], None]) -> HookResult:
    """Do `work` now, or after the closure in the arguments of `optimizer.step(closure)`, the optimizer among them."""
    closure: Callable[[], Any] | None = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        work()
        return None

    def closure_and_work() -> Any:
        loss = closure()
        work()
        return loss

    if len(args) > 1:
        return (args[0], closure_and_work, *args[2:]), kwargs
    return args, {**kwargs, "closure": closure_and_work}
