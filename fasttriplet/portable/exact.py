"""Exact scores of pairs of rows, in float64, with the bits of the kernels (``csrc/cpu/kernels/exact-inl.h``).

A score is a distance rounded to float64. Its sum runs over two chains of eight lanes in the kernels' order, one
elementwise operator a step, so that no device's reduction, block size or fused multiply-add has a say in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES

if TYPE_CHECKING:
    from fasttriplet.portable.rows import Rows

#: Of one chain, and a step of both.
LANES = 8
STEP = 2 * LANES

#: Entries of rows at a time: half a MB of float64, a few of which the caches hold, or what fills a device.
_PIECE_ON_CPU, _PIECE = 2**16, 2**24


def at_once(rows: Tensor) -> int:
    """How many of such rows [N, D] a step takes, where it makes copies of them; at least 1."""
    size = _PIECE_ON_CPU if rows.device.type == "cpu" else _PIECE
    return max(1, size // max(1, rows.shape[1]))


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
    if values.device.type == "cuda" and torch.version.hip is None:  # rounds to nearest
        return values.sqrt()
    # Into the range in which the remainder is exact, by powers of four.
    small, large = values < 2.0**-500, values > 2.0**500
    values = torch.where(small, values * 2.0**600, torch.where(large, values * 2.0**-600, values))
    s = values.sqrt()
    wide = s * (2**27 + 1)
    upper = wide - (wide - s)
    lower = s - upper
    square = s * s
    rest = (values - square) - ((upper * upper - square + 2 * upper * lower) + lower * lower)
    s = torch.where((values > 0) & (values < torch.inf), s + rest / (2 * s), s)
    return torch.where(small, s * 2.0**-300, torch.where(large, s * 2.0**300, s))


def scores(x: Tensor, y: Tensor, distance: int) -> Tensor:
    """[K] of the pairs of rows ``x`` [K, D], overwritten, and ``y`` [K, D], float64 and normalised by cosine."""
    name = DISTANCES[distance]
    if name == "inner_product":
        return -lane_sum(x.mul_(y))
    x.sub_(y)
    total = lane_sum(x.mul_(x))
    if name == "euclidean":
        return root(total)
    return total / 2 if name == "cosine" else total


def scores_of(rows: Rows, candidates: Rows, first: Tensor, second: Tensor, distance: int) -> Tensor:
    """[K] of the pairs ``(rows[first], candidates[second])``, some at a time."""
    found = [
        scores(rows.wide.index_select(0, i), candidates.wide.index_select(0, j), distance)
        for i, j in zip(*(each.split(at_once(rows.wide)) for each in (first, second)), strict=True)
    ]
    total = found[0] if len(found) == 1 else torch.cat(found)
    if rows.factors is None or candidates.factors is None:
        return total
    return _unless_zero(total, rows.factors[first], candidates.factors[second])


def scores_of_rows(x: Rows, y: Rows, distance: int) -> Tensor:
    """[T] of rows that stand beside each other, some at a time."""
    parts = (each.wide.split(at_once(each.wide)) for each in (x, y))
    total = torch.cat([scores(i.clone(), j, distance) for i, j in zip(*parts, strict=True)])
    return total if x.factors is None or y.factors is None else _unless_zero(total, x.factors, y.factors)


def _unless_zero(scores: Tensor, x_factors: Tensor, y_factors: Tensor) -> Tensor:
    """A row of norm zero is at distance 1 from every row."""
    return torch.where((x_factors == 0) | (y_factors == 0), 1, scores)
