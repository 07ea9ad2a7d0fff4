"""Distances of given pairs in plain PyTorch, differentiable twice: for second derivatives and the losses of compat."""

from __future__ import annotations

import torch
from torch import Tensor


def pair_distances(x: Tensor, y: Tensor, distance: str) -> Tensor:
    """Distances [T] of rows ``x`` [T, D] and ``y`` [T, D], by name; a pair at distance 0 has no slope but by inner
    product.
    """
    if distance == "inner_product":
        return -(x * y).sum(1)
    if distance == "cosine":
        (x, zero_x), (y, zero_y) = unit(x), unit(y)
        # Half the squared difference of unit rows, without cancellation.
        return torch.where(zero_x | zero_y, 1, (x - y).square().sum(1) / 2)
    squared = (x - y).square().sum(1)
    if distance == "squared_euclidean":
        return squared
    zero = squared == 0
    return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt())


def unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [T, D] at length 1, and which are :func:`zero_rows` [T]: those are at distance 1 from every row, with no
    slope.

    Divided by their largest entry first, a constant to the gradient, so that squares stay inside the range of float32.
    """
    largest = torch.nn.functional.pad(rows.detach().abs(), (1, 0)).amax(1, keepdim=True)  # a zero more, for D = 0
    zero = zero_rows(rows)[:, None] if rows.dtype == torch.float64 else largest == 0
    rows = torch.where(zero, 1, rows / torch.where(zero, 1, largest))
    return rows / rows.norm(dim=1, keepdim=True), zero[:, 0]


def zero_rows(rows: Tensor) -> Tensor:
    """[T] bool: rows of norm zero, or shorter than float64's smallest normal number, whose inverse may overflow."""
    if rows.dtype != torch.float64:  # float32's shortest is far longer
        return ~rows.detach().any(1)
    return torch.linalg.vector_norm(rows.detach() / torch.finfo(torch.float64).smallest_normal, dim=1) < 1
