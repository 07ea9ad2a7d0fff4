"""Distances of given pairs in plain PyTorch, differentiable, for losses over triplets mined before."""

from __future__ import annotations

import torch
from torch import Tensor


def _root(squared: Tensor) -> Tensor:
    """The square root; at 0 its slope is 0."""
    zero = squared == 0
    return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt())


def _unit(rows: Tensor) -> Tensor:
    """Rows of norm 1, but zero rows, which stay."""
    return torch.nn.functional.normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny)


def _of_rows(x: Tensor, y: Tensor, distance: str) -> Tensor:
    """Distances [T] of x [T, D] and y [T, D]."""
    if distance == "inner_product":
        return -(x * y).sum(1)
    if distance == "cosine":
        x, y = _unit(x), _unit(y)
        # Half the squared difference of unit rows, without cancellation; the cosine of a zero row is 0.
        zero = (x == 0).all(1) | (y == 0).all(1)
        return torch.where(zero, 1, (x - y).square().sum(1) / 2)
    squared = (x - y).square().sum(1)
    return squared if distance == "squared_euclidean" else _root(squared)


def distance_matrix(rows: Tensor, others: Tensor, distance: str) -> Tensor:
    """Distances [N, M] of rows [N, D] and others [M, D]."""
    if distance == "inner_product":
        return -rows @ others.T
    unit = distance == "cosine"
    x, y = (_unit(rows), _unit(others)) if unit else (rows, others)
    euclidean = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")  # differences; its slope at 0 is 0
    if distance == "euclidean":
        return euclidean
    if not unit:
        return euclidean.square()
    zero = (x == 0).all(1)[:, None] | (y == 0).all(1)
    return torch.where(zero, 1, euclidean.square() / 2)


class PairDistances:
    """Distances of pairs between rows [N, D] and others [M, D].

    Few pairs are gathered row by row, in time and memory O(T * D). Where there are to be ``pairs`` of them, and that is
    a good part of all N * M, the matrix of all distances is made once and its entries are picked.
    """

    def __init__(self, rows: Tensor, others: Tensor, distance: str, pairs: int) -> None:
        self.rows, self.others, self.distance = rows, others, distance
        # A gathered pair costs several passes over its 2 D numbers, one of the matrix less than one.
        dense = 8 * pairs > rows.shape[0] * others.shape[0]
        self.matrix = distance_matrix(rows, others, distance) if dense else None

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances [T] of the pairs ``(rows[first[t]], others[second[t]])``."""
        if self.matrix is not None:
            return self.matrix[first, second]
        return _of_rows(self.rows.index_select(0, first), self.others.index_select(0, second), self.distance)
