"""Programs that outlive the model, as torch.export, torch.jit.trace, ONNX and torch.fx make them; and torch.func."""

from __future__ import annotations

import torch

from ..private import is_transformed


def is_recorded() -> bool:
    """Whether the operations of this call are being recorded for a program that others run, or changed by torch.func.

    They must be operations of torch on the deltas themselves: neither numbers of this process, nor functions of this
    package.
    """
    if torch.compiler.is_exporting():
        return True
    return not torch.compiler.is_compiling() and (torch.jit.is_tracing() or is_transformed())


def refuse_symbolic(*inputs: object) -> None:
    """Raise ValueError for inputs of torch.fx.symbolic_trace, which looks into no layer."""
    if any(isinstance(value, torch.fx.Proxy) for value in inputs):
        raise ValueError(
            "torch.fx cannot trace the layers of an active Fish-Dip adapter: call merge_and_unload() first and trace "
            "the model that it returns, or merge_adapter() for that time; torch.export works as it is."
        )
