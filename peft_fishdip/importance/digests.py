"""By what an example of training is known when it comes again."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .losses import IGNORED, Batch
from .rows import OF_ALL_ROWS

OF_PADDING = ("decoder_attention_mask", "position_ids", "decoder_position_ids", *OF_ALL_ROWS)
"""Arguments that differ with the padding of an example; so does a two-dimensional `attention_mask`."""


def keys(batch: Batch, count: int) -> list[bytes]:
    """For each row of a batch a digest of the example, which does not depend on how far, or where, it is padded.

    All its tensors count, such as those of images. Of those with a value for each token, the attended tokens do; of
    labels and what a decoder reads, the targets.
    """
    own = {
        name: tensor.cpu()
        for name, tensor in batch.items()
        if isinstance(tensor, Tensor) and tensor.dim() and name not in OF_PADDING and count in (1, len(tensor))
    }
    labels, mask = own.get("labels"), own.get("attention_mask")
    targets = labels != IGNORED if labels is not None and labels.dim() == 2 else None
    attended = own.pop("attention_mask") != 0 if mask is not None and mask.dim() == 2 else None
    found = []
    for index in range(count):
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in own.items():
            kept = targets if name == "labels" or name.startswith("decoder_") else attended
            row = tensor[index] if count > 1 or len(tensor) == 1 else tensor
            if kept is not None and kept.shape == tensor.shape[:2]:
                row = row[kept[index]]
            digest.update(f"{name} {tuple(row.shape)}".encode())
            digest.update(row.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if row.numel() else b"")
        found.append(digest.digest())
    return found
