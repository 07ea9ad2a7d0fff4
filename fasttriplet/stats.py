"""What a loss tells about its triplets, without waiting for the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES
from fasttriplet.pairing import Batch


class TripletStats(NamedTuple):
    """What became of a batch: the second result of a loss with ``return_stats=True``. Nothing in it has a graph.

    For :func:`fasttriplet.batch_all_triplet_loss` and :func:`fasttriplet.weighted_triplet_loss`, which choose no pairs,
    all but ``active_fraction`` speaks of each anchor's farthest positive and nearest negative, mined for this; so does
    ``negative_counts`` of the latter.

    Attributes:
        active_fraction: [], triplets with a loss above zero as a share of those that count; 0 where none counts. Near 0
            there is little left to learn from these triplets: mine harder, enlarge the batch or the memory, or raise
            the margin. With ``soft_margin`` it is 1, but for losses
            that underflow.
        missing_positive: [] int64, anchors (ignored ones aside) for which no positive was mined. Let the sampler draw
            at least two of each class.
        missing_negative: [] int64, anchors for which no negative was mined. Let the sampler draw several classes; with
            ``otherwise="skip"`` it also tells of anchors without a semi-hard negative.
        mean_positive_distance: [], over mined positives, NaN where there is none. Classes spread while it rises.
        mean_negative_distance: [], over mined negatives, NaN where there is none. Classes part while it rises.
        collapse: [], mean euclidean distance of mined anchors and negatives, divided by the root mean square norm of
            the anchors; of rows at length 1 for ``"cosine"``. About 1 is healthy (1.41: at right angles). On its way to
            0 all classes become one point: mine easier (semi-hard), use ``soft_margin``, or lower the learning rate.
            NaN where no negative was mined.
        negative_counts: [N], with references [M], int64: how often each candidate is a negative; for
            :func:`fasttriplet.batch_all_triplet_loss` in triplets with a loss above zero. A few large numbers are hubs:
            look at those samples for wrong labels, or use ``skip_fraction`` of
            :func:`fasttriplet.k_hardest_triplet_loss`.

    Distances and shares have the dtype of the loss. They are NaN where a row is not finite.
    """

    active_fraction: Tensor
    missing_positive: Tensor
    missing_negative: Tensor
    mean_positive_distance: Tensor
    mean_negative_distance: Tensor
    collapse: Tensor
    negative_counts: Tensor


@torch.no_grad()
def stats_of(
    batch: Batch,
    distances: Tensor,  # [2, T] float64
    triplets: Tensor,  # [3, T]
    poison: Tensor,
    counted: Tensor,
    active: Tensor,
    distance: int,
    negative_counts: Tensor | None = None,
) -> TripletStats:
    """Of mined triplets; ``counted`` and ``active`` are how many count, by triplet or by anchor."""
    dtype = batch.embeddings.dtype
    anchors, found = triplets[0], triplets[1:] >= 0
    takes_part = batch.takes_part()
    missing = []
    for exists in found:
        absent = anchors.new_zeros(len(batch.embeddings)).index_add(0, anchors, exists.long()) == 0
        missing.append((absent if takes_part is None else absent & takes_part).sum())
    if negative_counts is None:
        tally = anchors.new_zeros(batch.candidates + 1)  # the last place is for none
        places = torch.where(found[1], triplets[2], batch.candidates)
        negative_counts = tally.index_add(0, places, torch.ones_like(places))[: batch.candidates]
    return TripletStats(
        (active.sum() / counted.sum().clamp_min(1) * poison).to(dtype),
        missing[0],
        missing[1],
        _mean(distances[0], found[0]).to(dtype),
        _mean(distances[1], found[1]).to(dtype),
        _collapse(batch, distances[1], triplets, distance).to(dtype),
        negative_counts,
    )


def _mean(values: Tensor, exists: Tensor) -> Tensor:
    return torch.where(exists, values, 0).sum() / exists.sum()


def _collapse(batch: Batch, distances: Tensor, triplets: Tensor, distance: int) -> Tensor:
    anchors, _, negatives = triplets
    exists, name = negatives >= 0, DISTANCES[distance]
    if name == "cosine":
        return _mean((2 * distances).clamp_min(0).sqrt(), exists)
    squares = torch.linalg.vector_norm(batch.embeddings, dim=1, dtype=torch.float64).square()
    if name == "euclidean":
        apart = distances
    elif name == "squared_euclidean":
        apart = distances.sqrt()
    else:  # |a - n|^2 = |a|^2 + |n|^2 - 2 a.n
        others = squares
        if batch.ref_embeddings is not None:
            others = torch.linalg.vector_norm(batch.ref_embeddings, dim=1, dtype=torch.float64).square()
        padded = torch.cat([others, others.new_zeros(1)])
        apart = squares[anchors] + padded[torch.where(exists, negatives, batch.candidates)] + 2 * distances
        apart = apart.clamp_min(0).sqrt()
    takes_part = batch.takes_part()
    mean_square = squares.mean() if takes_part is None else _mean(squares, takes_part)
    return _mean(apart, exists) / mean_square.sqrt()
