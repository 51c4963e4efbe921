"""A copy on disk of all that training can change in a model, and the way back to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class SavedTensors(Mapping[str, Tensor]):
    """Tensors by name, each in a safetensors file of its own, so that no more than one has to be in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.files: dict[str, Path] = {}

    def write(self, name: str, tensor: Tensor) -> None:
        path = self.folder / f"{len(self.files)}.safetensors"
        save_file({"tensor": tensor.detach().cpu().contiguous()}, path)
        self.files[name] = path

    def __getitem__(self, name: str) -> Tensor:
        return load_file(self.files[name])["tensor"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


class BaseCopy:
    """The parameters and buffers of a model as they are now, and what else training changes: gradients, which
    parameters want them, and whether modules are in training mode.

    Args:
        model: a plain model; tied parameters are kept once.
        folder: a new folder for the files, as large as the model.
    """

    def __init__(self, model: nn.Module, folder: Path) -> None:
        self.model = model
        self.saved = SavedTensors(folder)
        self.modes = [(module, module.training) for module in model.modules()]
        self.trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        self.buffers = [name for name, _ in model.named_buffers()]
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self.saved.write(name, tensor)

    @torch.no_grad()
    def restore(self) -> None:
        """Give all of them their old values, bitwise and in their old dtype, where they are now. May be repeated.

        Raises:
            ValueError: the model has other parameters or buffers than before, or parameters of other shapes; those that
                fit are restored.
        """
        parameters, changed = dict(self.model.named_parameters()), []
        for name, requires_grad in self.trained.items():
            parameter, before = parameters.get(name), self.saved[name]
            if parameter is None or parameter.shape != before.shape:
                changed.append(name)
                continue
            parameter.grad = None
            if parameter.dtype == before.dtype:
                parameter.copy_(before)
            else:
                parameter.data = before.to(parameter.device)
            parameter.requires_grad_(requires_grad)
        modules = dict(self.model.named_modules())
        for name in self.buffers:
            owner, _, leaf = name.rpartition(".")
            module, before = modules.get(owner), self.saved[name]
            current = getattr(module, leaf, None)
            if module is None or not isinstance(current, Tensor):
                changed.append(name)
            elif (current.shape, current.dtype) == (before.shape, before.dtype):
                current.copy_(before)
            else:
                setattr(module, leaf, before.to(current.device))
        for module, training in self.modes:
            module.training = training
        changed += parameters.keys() - self.trained.keys()
        if changed:
            raise ValueError(
                f"training replaced parts of the model, {changed[0]!r} among {len(changed)}, so that the base "
                "cannot be restored as a whole: load it anew, and resize or add modules before lottery_mask."
            )
