"""Histograms of the distances of positive and of negative pairs.

Pairs are gone through or drawn some at a time (:mod:`fasttriplet.retrieval.pairs`). What is kept of them are at most
some 10 million distances.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.pairing import Batch
from fasttriplet.retrieval.pairs import Pairs, distances_of

#: All positive pairs are looked at up to so many. Distances of so many pairs are kept, more are computed twice.
_MOST = 10_000_000


class DistanceHistogram(NamedTuple):
    """How many pairs of either kind have a distance in each of B bins of equal width.

    A pair is a query and a candidate, both finite; where the queries are the candidates, not a second time the other
    way round. The bins reach from the smallest to the largest distance looked at.

    Attributes:
        edges: [B + 1] float64, ascending. Bin b counts what is at least edge b and below edge b + 1, the last one also
            what is equal to that.
        positives: [B] int64, of the positive pairs looked at. What overflows float64 is in no bin.
        negatives: [B] int64, of the negative pairs looked at.
        positive_pairs: how many there are.
        negative_pairs: how many there are.
        sampled_positives: how many were looked at: all, or so many drawn with replacement.
        sampled_negatives: how many were looked at.

    Example:
        >>> import torch
        >>> from fasttriplet.retrieval import retrieval_metrics
        >>> embeddings = torch.tensor([[0.0], [1.0], [3.0], [4.0]])
        >>> found = retrieval_metrics(embeddings, torch.tensor([0, 0, 1, 1]), histograms=True, bins=3).histograms
        >>> found.edges.tolist(), found.positives.tolist(), found.negatives.tolist()
        ([1.0, 2.0, 3.0, 4.0], [2, 0, 0], [0, 1, 3])
    """

    edges: Tensor
    positives: Tensor
    negatives: Tensor
    positive_pairs: int
    negative_pairs: int
    sampled_positives: int
    sampled_negatives: int


@torch.no_grad()
def distance_histogram(batch: Batch, distance: int, bins: int, most: int | None, seed: int) -> DistanceHistogram:
    """Of a checked batch and a distance's code.

    Args:
        batch: rows that are not finite are in no pair.
        distance: its code.
        bins: how many.
        most: pairs to look at where there are more, of the positive ones where there are more than 10 million. None:
            all pairs.
        seed: of the draw.
    """
    pairs = Pairs(batch)
    kinds = [_Kind(batch, pairs, positive, distance, most, seed) for positive in (True, False)]
    edges = _edges(kinds, bins, batch.embeddings)
    positives, negatives = (kind.counts(edges) for kind in kinds)
    return DistanceHistogram(
        *(edges, positives, negatives),
        *(kind.exist for kind in kinds),
        *(kind.looked_at for kind in kinds),
    )


class _Kind:
    """The distances of positive or of negative pairs, some at a time and as often as wanted."""

    def __init__(self, batch: Batch, pairs: Pairs, positive: bool, distance: int, most: int | None, seed: int) -> None:
        self._batch, self._pairs, self._positive, self._distance, self._seed = batch, pairs, positive, distance, seed
        self.exist = pairs.count(positive)
        everything = most is None or self.exist <= (max(most, _MOST) if positive else most)
        self._most = None if everything else most
        self.looked_at = self.exist if self._most is None else self._most
        self._kept = list(self._computed()) if self.looked_at <= _MOST else None

    def _computed(self) -> Iterator[Tensor]:
        return distances_of(self._batch, self._pairs.looked_at(self._positive, self._most, self._seed), self._distance)

    def distances(self) -> Iterator[Tensor]:
        """Those that are finite."""
        for values in self._computed() if self._kept is None else self._kept:
            yield values[values.isfinite()]

    def counts(self, edges: Tensor) -> Tensor:
        """[B] of the bins between ``edges``."""
        bins = len(edges) - 1
        total = torch.zeros(bins, dtype=torch.int64, device=edges.device)
        for values in self.distances():
            places = (torch.bucketize(values, edges, right=True) - 1).clamp(0, bins - 1)
            total += torch.bincount(places, minlength=bins)
        return total


def _edges(kinds: list[_Kind], bins: int, like: Tensor) -> Tensor:
    """[bins + 1] over the distances of all kinds; around a single one by 1/2 on either side, of none from 0 to 1."""
    low, high = (like.new_full((), value, dtype=torch.float64) for value in (torch.inf, -torch.inf))
    for kind in kinds:
        for values in kind.distances():
            if len(values):
                low, high = torch.minimum(low, values.amin()), torch.maximum(high, values.amax())
    first, last = float(low), float(high)
    if first > last:
        first, last = 0.0, 1.0
    elif first == last:
        first, last = first - 0.5, last + 0.5
    return torch.linspace(first, last, bins + 1, dtype=torch.float64, device=like.device)
