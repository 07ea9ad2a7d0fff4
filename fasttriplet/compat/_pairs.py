"""Distances of given pairs, gathered or out of a matrix, differentiable, for losses over triplets mined before."""

from __future__ import annotations

import torch
from torch import Tensor

from fasttriplet.pair_distances import pair_distances, unit


def distance_matrix(rows: Tensor, others: Tensor, distance: str) -> Tensor:
    """Distances [N, M] of rows [N, D] and others [M, D]."""
    if distance == "inner_product":
        return -rows @ others.T
    if distance == "cosine":
        (x, zero_x), (y, zero_y) = unit(rows), unit(others)
        return torch.where(zero_x[:, None] | zero_y, 1, _euclidean(x, y).square() / 2)
    euclidean = _euclidean(rows, others)
    return euclidean if distance == "euclidean" else euclidean.square()


def _euclidean(rows: Tensor, others: Tensor) -> Tensor:
    """From differences; the slope at 0 is 0."""
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")


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
        return pair_distances(self.rows.index_select(0, first), self.others.index_select(0, second), self.distance)
