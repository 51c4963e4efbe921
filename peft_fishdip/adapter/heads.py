"""Gives the trained copy of a classifier as many classes as the checkpoint has that is loaded into it.

AutoPeftModel makes the base of a classifier with two classes, whatever the adapter was trained on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel


def classes_of(model: nn.Module) -> dict[int, str]:
    """The classes of a transformers classifier, by their numbers; empty for other models."""
    classifier = classifier_in(model)
    return {} if classifier is None else {int(n): name for n, name in (classifier.config.id2label or {}).items()}


def classifier_in(model: nn.Module) -> PreTrainedModel | None:
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and "Classification" in type(module).__name__:
            return module
    return None


def fit_classifier(
    model: nn.Module, adapter_name: str, tensors: Mapping[str, Tensor], id2label: Mapping[int, str] | None
) -> None:
    """Make the last layer of an adapter's classifier anew where a checkpoint has another number of classes.

    The base's own classifier stays; `num_labels` and `id2label` of its config become those of the adapter, and a
    warning says so.

    Args:
        tensors: of the checkpoint, by their keys in the model.
        id2label: the classes that the adapter was trained on; None if that is not known, and then nothing changes.
    """
    classifier = classifier_in(model)
    before = 0 if classifier is None else classifier.config.num_labels
    if not id2label or classifier is None or len(id2label) == before:
        return
    fitted = False
    for name, wrapper in list(model.named_modules()):
        if not isinstance(wrapper, ModulesToSaveWrapper) or adapter_name not in wrapper.modules_to_save:
            continue
        copied = wrapper.modules_to_save[adapter_name]
        for inner, module in list(copied.named_modules()):
            key = ".".join(part for part in (name, "modules_to_save", adapter_name, inner, "weight") if part)
            tensor = tensors.get(key)
            if not isinstance(module, nn.Linear) or tensor is None or module.out_features != before:
                continue
            if tuple(tensor.shape) == (len(id2label), module.in_features):
                made = nn.Linear(
                    module.in_features,
                    len(id2label),
                    bias=module.bias is not None,
                    device=module.weight.device,
                    dtype=module.weight.dtype,
                )
                made.requires_grad_(module.weight.requires_grad).train(module.training)
                wrapper.modules_to_save.set_submodule(f"{adapter_name}.{inner}" if inner else adapter_name, made)
                fitted = True
    if fitted:
        classifier.config.id2label = dict(id2label)
        classifier.config.label2id = {label: number for number, label in id2label.items()}
        if hasattr(classifier, "num_labels"):
            classifier.num_labels = len(id2label)  # type: ignore[assignment]
        warnings.warn(
            f"adapter {adapter_name!r} was trained with {len(id2label)} classes, and the base was made with {before}: "
            f"num_labels and id2label of its config are those of the adapter now. To tell it so at once, load the base "
            f"with num_labels={len(id2label)}.",
            UserWarning,
            stacklevel=2,
        )
