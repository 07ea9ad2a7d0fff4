"""Rows of length 1, and distances of given pairs, differentiable, for losses over triplets mined before.

All of it is in the dtype of the rows, under autocast too: that casts no operator used here. Around code that is not
ours :func:`full_precision` switches it off.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fasttriplet.pair_distances import pair_distances, unit
from fasttriplet.trip import away, there_and_back

#: The originals divide by this where a row is shorter.
_SHORTEST = 1e-12


def under_autocast(rows: Tensor) -> bool:
    """Whether autocast is on for the device of ``rows``; the meta device, which has none, is an error to PyTorch."""
    kind = rows.device.type
    return kind != "meta" and torch.is_autocast_enabled(kind)


def full_precision(rows: Tensor) -> AbstractContextManager[None]:
    """Autocast off for the device of ``rows``, around code that is not ours and may multiply matrices."""
    return torch.autocast(rows.device.type, enabled=False) if under_autocast(rows) else nullcontext()


def normalized(rows: Tensor) -> Tensor:
    """Rows [N, D] divided by their norm; those of norm up to 1e-12 become zero rows, with gradient 0.

    ``torch.nn.functional.normalize``, which the originals call, divides such rows by 1e-12, and their gradient too.
    """
    squares = (rows * rows).sum(1, keepdim=True)
    # The roots of infinity: at 0 their derivatives would not be finite, and 0 times infinity is NaN. NaN stays NaN.
    return rows / squares.masked_fill(squares <= _SHORTEST**2, torch.inf).sqrt()


def distance_matrix(rows: Tensor, others: Tensor, distance: str) -> Tensor:
    """Distances [N, M] of rows [N, D] and others [M, D]."""
    if distance == "inner_product":
        if away(rows):
            return there_and_back(distance_matrix, locals())
        # Products of float64 are left alone by autocast, forward and backward, and by TF32.
        return -(rows.double() @ others.double().T).to(rows.dtype)
    if distance == "cosine":
        (x, zero_x), (y, zero_y) = unit(rows), unit(others)
        return torch.where(zero_x[:, None] | zero_y, 1, _euclidean(x, y).square() / 2)
    euclidean = _euclidean(rows, others)
    return euclidean if distance == "euclidean" else euclidean.square()


def _euclidean(rows: Tensor, others: Tensor) -> Tensor:
    """From differences; the slope at 0 is 0."""
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")


def _likely(condition: bool) -> bool:
    """A bool as it is; true where ``torch.compile`` does not know, since the numbers are of what was mined."""
    if not torch.compiler.is_compiling():
        return condition
    from torch.fx.experimental.symbolic_shapes import guard_or_true  # not on top: it imports sympy

    return guard_or_true(condition)


class PairDistances:
    """Distances of pairs between rows [N, D] and others [M, D].

    Few pairs are gathered row by row, in time and memory O(T * D). Where there are to be ``pairs`` of them, and that is
    a good part of all N * M, the matrix of all distances is made once and its entries are picked.
    """

    def __init__(self, rows: Tensor, others: Tensor, distance: str, pairs: int) -> None:
        self.rows, self.others, self.distance = rows, others, distance
        # A gathered pair costs several passes over its 2 D numbers, one of the matrix less than one.
        dense = _likely(8 * pairs > rows.shape[0] * others.shape[0])
        self.matrix = distance_matrix(rows, others, distance) if dense else None

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances [T] of the pairs ``(rows[first[t]], others[second[t]])``."""
        if self.matrix is not None:
            return self.matrix[first, second]
        return pair_distances(self.rows.index_select(0, first), self.others.index_select(0, second), self.distance)
