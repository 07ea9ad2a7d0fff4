"""Which negatives in a window of ranks are chosen: filters beside the positive, then the nearest or any alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES

#: Why a candidate is left out, in the order in which reasons are looked at; see ``MiningReport.left_out``.
REASONS = (
    *("never_pair", "range_max", "range_min", "no_positive", "absolute_margin", "relative_margin"),
    *("min_distance", "max_distance", "not_needed"),
)


class Options(NamedTuple):
    """Of :func:`mine_hard_negatives`, checked."""

    distance: int
    num_negatives: int
    positive: str
    range_min: int
    range_max: int
    absolute_margin: float | None
    relative_margin: float | None
    min_distance: float | None
    max_distance: float | None
    sampling: str
    seed: int

    def filters(self, negatives: Tensor, positives: Tensor) -> Iterator[tuple[str, Tensor]]:
        """By reason which of the distances [R, W] stay, beside those of the rows' positives [R, 1]."""
        if self.absolute_margin is not None or self.relative_margin is not None:
            yield "no_positive", ~positives.isnan()
        if self.absolute_margin is not None:
            yield "absolute_margin", negatives >= positives + self.absolute_margin
        if self.relative_margin is not None:
            yield "relative_margin", self._relatively_far(negatives, positives, self.relative_margin)
        if self.min_distance is not None:
            yield "min_distance", negatives >= self.min_distance
        if self.max_distance is not None:
            yield "max_distance", negatives <= self.max_distance

    def _relatively_far(self, negatives: Tensor, positives: Tensor, margin: float) -> Tensor:
        name = DISTANCES[self.distance]
        if name in ("euclidean", "squared_euclidean"):
            return negatives >= positives * (1 + margin)
        offset = 1 if name == "cosine" else 0
        similarity = offset - positives
        return offset - negatives <= similarity - similarity.abs() * margin


def choose(
    options: Options, distances: Tensor, indices: Tensor, apart: Tensor, numbers: Tensor, left_out: dict[str, int]
) -> tuple[Tensor, Tensor]:
    """Indices and distances [R, num_negatives] of what is chosen, nearest first; -1 and NaN where there are fewer.

    Args:
        options: checked.
        distances: [R, W] of the W nearest negatives, nearest first.
        indices: [R, W], -1 where there are fewer.
        apart: [R] distances of the rows' positives, NaN where there is none.
        numbers: [R, W] int64, what a random choice is made by; not looked at otherwise.
        left_out: counts by reason, added to.
    """
    fit = indices >= 0
    left_out["range_min"] += int(fit[:, : options.range_min].sum())
    fit[:, : options.range_min] = False
    for reason, kept in options.filters(distances, apart[:, None]):
        left_out[reason] += int((fit & ~kept).sum())
        fit &= kept
    fitting = int(fit.sum())
    if options.sampling == "random":
        order = numbers.masked_fill(~fit, torch.iinfo(torch.int64).max)
        first = order.topk(min(options.num_negatives, order.shape[1]), dim=1, largest=False).indices
        fit &= torch.zeros_like(fit).scatter_(1, first, True)
    places = fit.cumsum(1) - 1
    fit &= places < options.num_negatives
    rows, columns = fit.nonzero(as_tuple=True)
    left_out["not_needed"] += fitting - len(rows)
    shape = len(indices), options.num_negatives
    chosen, found = indices.new_full(shape, -1), distances.new_full(shape, torch.nan)
    chosen[rows, places[rows, columns]] = indices[rows, columns]
    found[rows, places[rows, columns]] = distances[rows, columns]
    return chosen, found


def mixed(seed: int, *indices: Tensor) -> Tensor:
    """Numbers from 0 to 2^62, as if drawn for each seed and tuple of ``indices``, int64 that broadcast.

    They depend on nothing else: not on the device, on what is computed at a time, or on what other rows there are.

    Source: the finaliser of SplitMix64, G. L. Steele, D. Lea, C. H. Flood, "Fast Splittable Pseudorandom Number
    Generators", 2014.
    """
    state = _mix(torch.tensor(_signed(seed), device=indices[0].device))
    for each in indices:
        state = _mix(state + (each + 1) * _signed(0x9E3779B97F4A7C15))
    return state & (2**62 - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """To the right, zeros from the left, which int64 does not do by itself."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


def _signed(value: int) -> int:
    """The int64 of the same lowest 64 bits."""
    return (value + 2**63) % 2**64 - 2**63
