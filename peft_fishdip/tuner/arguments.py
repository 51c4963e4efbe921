"""Checks of what a caller passes by hand: names of adapters and functions."""

from __future__ import annotations

from typing import Any

FUNCTIONS = {
    "data_collator": "a function from a list of feature dicts to a batch",
    "loss_fn": "a function of the model and a batch that returns the losses of its examples, shape (batch,)",
}


def check_names(names: Any, argument: str = "adapter_name") -> None:
    """Raise TypeError unless this is the name of an adapter, or a list, tuple or set of such names."""
    several = isinstance(names, (list, tuple, set))
    if not all(isinstance(name, str) for name in (names if several else [names])):
        raise TypeError(f"{argument}={names!r} must be the name of an adapter, a text such as 'default'.")


def check_functions(**functions: Any) -> None:
    """Raise TypeError for a `data_collator` or `loss_fn` that cannot be called; None is one that was not given."""
    for argument, value in functions.items():
        if value is not None and not callable(value):
            raise TypeError(f"{argument}={value!r} must be {FUNCTIONS[argument]}, or None for the usual one.")
