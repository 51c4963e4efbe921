"""Importance functions of published methods; each is also an example of how to write one.

They are given the effective values of one parameter (base plus delta, float32, a copy that they may change) and the
gradients of the examples there, and return a score of at least 0 for each entry.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .gradients import ExampleGradients

GALLOP_EPSILON = 1e-8
LIFT_RANK_SHARE = 32
"""LIFT approximates a matrix by this part of its rank, as its authors do for Llama 3 8B: 128 of 4096."""


def gradient(parameter: Tensor, gradients: ExampleGradients) -> Tensor:
    """Magnitude of the mean gradient by the trained values.

    Liu et al. (ACL 2025, arXiv 2412.13488) choose a static mask by it, and report that moving masks add nothing. They
    take the gradient by the weights themselves, which `delta_scale="none"` gives.
    """
    return gradients.mean.abs_().mul_(gradients.unit)


def magnitude(parameter: Tensor, gradients: ExampleGradients) -> Tensor:
    """Magnitude of the effective values, whatever the unit of the trained ones. Needs no examples."""
    return parameter.abs_()


def gallop(parameter: Tensor, gradients: ExampleGradients) -> Tensor:
    """GaLLoP (Choudhary et al., 2025, arXiv 2510.19778): |mean gradient| / (|value| + 1e-8), both of the weights.

    There the values are the pretrained ones; here they are the effective ones, which is the same for a static mask.
    """
    return gradients.mean.abs_().div_(parameter.abs_().add_(GALLOP_EPSILON))


def lift(parameter: Tensor, gradients: ExampleGradients, rank: int | None = None) -> Tensor:
    """LIFT (Liu et al., ICML 2025, arXiv 2506.00772): magnitude in the best approximation of low rank. No examples.

    As there, a matrix of m x n entries is given r * (m + n) of them, those of a LoRA of rank r, and every matrix the
    same r: the score is the smallest such r, inverted. Entries of vectors, which LIFT does not train, come last.
    Differences: `rank` is by default 1/32 of the smaller side, where the authors set 16 to 128 by hand; embeddings
    count as matrices, if they are targeted; and the mask moves only with `update_interval`.
    """
    if parameter.dim() < 2:
        return torch.zeros_like(parameter)
    matrix = parameter.flatten(1)
    smaller = min(matrix.shape)
    approximation = low_rank(matrix, min(rank or smaller // LIFT_RANK_SHARE or 1, smaller))
    order = approximation.abs_().flatten().argsort(descending=True, stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(1, order.numel() + 1, device=order.device)
    return (sum(matrix.shape) / places.float()).view(parameter.shape)  # whatever the default dtype is


def low_rank(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of this rank, which is that of the truncated SVD.

    The right singular vectors are the eigenvectors of the smaller Gram matrix: far cheaper than the SVD of a wide
    matrix, and without the random numbers of an approximate one.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return low_rank(matrix.T, rank).T
    top = torch.linalg.eigh(matrix.T @ matrix).eigenvectors[:, -rank:]
    return matrix @ top @ top.T
