"""Bytes that autograd saves for backward, beyond parameters and buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


def saved_for_backward(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of the storages that a forward pass leaves for backward; one that is saved often counts once.

    Also counted are tensors that custom functions keep as attributes, and those that hooks within the model save in
    place of others.
    """
    own = {storage_key(part) for tensor in [*model.parameters(), *model.buffers()] for part in parts(tensor)}
    seen: dict[tuple[str, int], int] = {}

    def note(tensor: Tensor) -> None:
        for part in parts(tensor):
            if storage_key(part) not in own:
                seen[storage_key(part)] = part.untyped_storage().nbytes()

    with watched(note):
        output = forward()
        for tensor in kept_by_functions(output):
            note(tensor)
    return sum(seen.values())


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that a tensor is made of."""
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    return (tensor,)


def storage_key(tensor: Tensor) -> tuple[str, int]:
    return str(tensor.device), tensor.untyped_storage().data_ptr()


@contextmanager
def watched(note: Callable[[Tensor], None]) -> Iterator[None]:
    """Within, `note` is told each tensor that is saved. It is kept alive, so that no two have the same address."""
    original = saved_tensors_hooks.__init__
    alive = []

    def tell(packed: Any) -> Any:
        for tensor in packed if isinstance(packed, (tuple, list)) else (packed,):
            if isinstance(tensor, Tensor):
                alive.append(tensor.detach())
                note(tensor)
        return packed

    def init(self: Any, pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> None:
        original(self, lambda tensor: tell(pack(tensor)), unpack)

    saved_tensors_hooks.__init__ = init  # type: ignore[method-assign, assignment]
    try:
        with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
            yield
    finally:
        saved_tensors_hooks.__init__ = original  # type: ignore[method-assign]
        alive.clear()


def kept_by_functions(output: Tensor) -> Iterable[Tensor]:
    """Tensors in the attributes of the custom autograd functions that `output` comes from."""
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        for value in getattr(node, "__dict__", {}).values():
            items = value if isinstance(value, (tuple, list)) else (value,)
            yield from (item for item in items if isinstance(item, torch.Tensor))
