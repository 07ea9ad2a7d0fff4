"""Exact scores of pairs of rows, in float64, with the bits of the kernels (``csrc/cpu/kernels/exact-inl.h``).

A score is a distance rounded to float64. Its sum runs over two chains of eight lanes in the kernels' order, one
elementwise operator a step, so that no device's reduction, block size or fused multiply-add has a say in it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES

#: Of one chain, and a step of both.
LANES = 8
STEP = 2 * LANES

#: Entries of pairs of rows at a time: 4 MB of float64, a few of which the caches hold.
_PIECE = 2**19


def total_of_lanes(lanes: Tensor) -> Tensor:
    """[K] of eight lanes [K, 8]."""
    four = lanes[:, :4] + lanes[:, 4:]
    return (four[:, 0] + four[:, 2]) + (four[:, 1] + four[:, 3])


def lane_sum(terms: Tensor) -> Tensor:
    """[K] sums of ``terms`` [K, D] as a score's: full eights to both chains in turn, what is left to the second."""
    d = terms.shape[1]
    whole = d - d % STEP
    if whole:
        chains = terms[:, :STEP] + 0.0  # not -0, as sums that begin at zero
        for first in range(STEP, whole, STEP):
            chains += terms[:, first : first + STEP]
    else:
        chains = terms.new_zeros((len(terms), STEP))
    if d - whole >= LANES:
        chains[:, :LANES] += terms[:, whole : whole + LANES]
        whole += LANES
    if d > whole:
        chains[:, LANES : LANES + d - whole] += terms[:, whole:]
    return total_of_lanes(chains[:, :LANES] + chains[:, LANES:])


def square_sum(rows: Tensor) -> Tensor:
    """[N] squared norms of rows [N, D] float64 in one chain, as the kernels survey a row."""
    squares, d = rows.square(), rows.shape[1]
    lanes = rows.new_zeros((len(rows), LANES))
    for first in range(0, d - d % LANES, LANES):
        lanes += squares[:, first : first + LANES]
    if d % LANES:
        lanes[:, : d % LANES] += squares[:, d - d % LANES :]
    return total_of_lanes(lanes)


def root(values: Tensor) -> Tensor:
    """Square roots rounded to nearest, as the kernels'. On a CPU PyTorch's own may be off by the last place.

    Corrected by the exact remainder ``values - s^2``, for which s is split in two halves whose products are exact.
    """
    s = values.sqrt()
    if values.device.type == "cuda":  # rounds to nearest
        return s
    wide = s * (2**27 + 1)
    upper = wide - (wide - s)
    lower = s - upper
    square = s * s
    rest = (values - square) - ((upper * upper - square + 2 * upper * lower) + lower * lower)
    in_range = (values > 2.0**-900) & (values < 2.0**900)  # of what is exact
    return torch.where(in_range, s + rest / (2 * s), s)


def scores(x: Tensor, y: Tensor, distance: int, x_factors: Tensor | None, y_factors: Tensor | None) -> Tensor:
    """[K] of the pairs of rows ``x`` [K, D] and ``y`` [K, D]; the factors [K] normalise them, by cosine."""
    name = DISTANCES[distance]
    x, y = x.double(), y.double()
    if name == "inner_product":
        return -lane_sum(x * y)
    if name == "cosine":
        assert x_factors is not None and y_factors is not None
        x, y = x * x_factors[:, None], y * y_factors[:, None]
    difference = x - y
    total = lane_sum(difference.mul_(difference))
    if name == "euclidean":
        return root(total)
    if name == "cosine":
        return torch.where((x_factors == 0) | (y_factors == 0), 1, total / 2)
    return total


def scores_of(
    rows: Tensor,
    candidates: Tensor,
    first: Tensor,
    second: Tensor,
    distance: int,
    factors: Tensor | None,
    candidate_factors: Tensor | None,
) -> Tensor:
    """[K] of the pairs ``(rows[first], candidates[second])``, some at a time."""
    piece = max(1, _PIECE // max(1, rows.shape[1]))
    found = []
    for i, j in zip(first.split(piece), second.split(piece), strict=True):
        own = None if factors is None else factors[i]
        other = None if candidate_factors is None else candidate_factors[j]
        found.append(scores(rows.index_select(0, i), candidates.index_select(0, j), distance, own, other))
    return found[0] if len(found) == 1 else torch.cat(found)
