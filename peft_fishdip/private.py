"""Private names of torch and PEFT, each behind one function, because there is no public way to what they do.

`tests/test_private.py` holds what is relied on, and fails with a clear message when a release changes it. The methods
that FishDipModel and FishDipLayer override are PEFT's own interface for tuners; the same test lists them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunctionSubclass
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode

FSDP_NAME = "_fsdp_wrapped_module."
"""What FSDP1 adds to the names of the modules that it wraps."""


def own_parameter(module: nn.Module, name: str) -> Any:
    """A parameter that a module owns, or None, even while another tensor stands in its place in `__dict__`."""
    return module._parameters.get(name)


def own_submodule(module: nn.Module, name: str) -> Any:
    """A child of a module. Faster than attribute access, which counts once per token in decoding."""
    return module._modules[name]


def own_submodules(module: nn.Module) -> Any:
    """The children of a module that is being made or copied, too, when it may have none yet."""
    return module.__dict__.get("_modules", {})


def has_own(module: nn.Module, name: str) -> bool:
    """Whether a module has an attribute, child or buffer of that name itself, and not by its class."""
    of_torch = (module.__dict__.get("_modules", {}), module.__dict__.get("_buffers", {}))
    return name in module.__dict__ or any(name in held for held in of_torch)


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks run when the module is called."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def rnn_weights(module: nn.Module) -> tuple[list[Any], list[str]]:
    """The list from which an RNN reads its weights, past attribute access, and their names; empty for others."""
    return (module._flat_weights, module._flat_weights_names) if isinstance(module, nn.RNNBase) else ([], [])


def as_plain_tensors() -> Any:
    """Within, operations on tensors of a subclass are those of torch, on this thread."""
    return DisableTorchFunctionSubclass()


def version_of(tensor: Tensor) -> int | None:
    """Differs after each change in place, except through `.data`; None for tensors made in inference mode."""
    return None if tensor.is_inference() else tensor._version


def is_transformed() -> bool:
    """Whether this is computed for a transform of torch.func, such as grad and vmap."""
    return bool(torch._C._are_functorch_transforms_active())


def moved_by_accelerate(model: nn.Module) -> bool:
    """Whether accelerate has put hooks on modules, which bring offloaded parameters when they are called."""
    return any("_hf_hook" in module.__dict__ for module in model.modules())


def is_replica(module: nn.Module) -> bool:
    """Whether a module is a copy without parameters that torch.nn.DataParallel has made for one call."""
    return bool(getattr(module, "_is_replica", False))


def active_ddp() -> Any:
    """The DistributedDataParallel whose forward pass is running, if any."""
    return DistributedDataParallel._get_active_ddp_module()
