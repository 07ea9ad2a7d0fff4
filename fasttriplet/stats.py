"""What a loss tells about its triplets, without waiting for the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES
from fasttriplet.distributed.batch import Together
from fasttriplet.pair_distances import zero_rows
from fasttriplet.pairing import Batch, Mined
from fasttriplet.reduction import ordered_sum


class TripletStats(NamedTuple):
    """What became of a batch: the second result of a loss with ``return_stats=True``. Nothing in it has a graph.

    For :func:`fasttriplet.batch_all_triplet_loss` and :func:`fasttriplet.weighted_triplet_loss`, which choose no pairs,
    all but ``active_fraction`` speaks of each anchor's farthest positive and nearest negative, mined for this; so does
    ``negative_counts`` of the latter.

    Attributes:
        active_fraction: [], triplets with a loss above zero as a share of those that count; 0 where none counts. Near 0
            there is little left to learn from these triplets: mine harder, enlarge the batch or the memory, or raise
            the margin. With ``soft_margin`` it is 1, but for losses that float64 rounds to zero, from a difference of
            distances of -745.13 on.
        missing_positive: [] int64, anchors (ignored ones aside) for which no positive was mined. Let the sampler draw
            at least two of each class.
        missing_negative: [] int64, anchors (ignored ones aside) for which no negative was mined. Let the sampler draw
            several classes. The semi-hard loss mines negatives for positive pairs, so that an anchor without a positive
            is counted here as well; with ``otherwise="skip"`` it also tells of anchors without a semi-hard negative.
        mean_positive_distance: [], over the positives of all triplets mined, each as often as it is in one and whether
            or not that counts; NaN where there is none. Classes spread while it rises.
        mean_negative_distance: [], likewise over their negatives: those of an anchor without a positive are among them.
            Classes part while it rises.
        collapse: [], mean euclidean distance of anchors and the negatives of ``mean_negative_distance``, divided by the
            root mean square norm of all anchors that are not ignored, with or without a negative; for ``"cosine"`` of
            rows at length 1, among which a zero row stays zero. About 1 is healthy (1.41: at right angles). On its way
            to 0 all classes become one point, as they are where all rows are zero: mine easier (semi-hard), use
            ``soft_margin``, or lower the learning rate. NaN where no negative was mined.
        negative_counts: [N], with references [M], int64: how often each candidate is a negative, whether or not the
            triplet counts; for :func:`fasttriplet.batch_all_triplet_loss` in triplets with a loss above zero. A few
            large numbers are hubs: look at those samples for wrong labels, or use ``skip_fraction`` of
            :func:`fasttriplet.k_hardest_triplet_loss`.

    A row that is not finite is in no triplet, but an anchor still: distances and shares are NaN then.
    They have the dtype of the loss.
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
    mined: Mined,
    counted: Tensor,
    active: Tensor,
    distance: int,
    negative_counts: Tensor | None = None,
) -> TripletStats:
    """Of mined triplets; ``counted`` and ``active`` are how many count, by triplet or by anchor."""
    dtype, distances, triplets = batch.embeddings.dtype, mined.distances.detach(), mined.triplets
    anchors, found = triplets[0], triplets[1:] >= 0
    takes_part = batch.takes_part()
    missing = []
    for exists in found:
        absent = anchors.new_zeros(batch.anchors).index_add(0, anchors, exists.long()) == 0
        missing.append((absent if takes_part is None else absent & takes_part).sum())
    if negative_counts is None:
        negative_counts = _negative_counts(batch, triplets[2], mined.counts)
    apart, squares = _apart_and_squares(batch, distances[1], triplets, mined.counts, distance)
    return TripletStats(
        (active.sum() / counted.sum().clamp_min(1) * mined.poison).to(dtype),
        missing[0],
        missing[1],
        _mean(distances[0], found[0]).to(dtype),
        _mean(distances[1], found[1]).to(dtype),
        _collapse(apart, found[1], squares, takes_part).to(dtype),
        negative_counts,
    )


def _negative_counts(batch: Batch, negatives: Tensor, counts: list[int] | None) -> Tensor:
    together: Together | None = batch.together
    if together is not None and not together.shared:  # candidates of this rank's own
        assert counts is not None
        negatives = together.group.of_each(negatives, counts)
    tally = negatives.new_zeros(batch.candidates + 1)  # the last place is for none
    places = torch.where(negatives >= 0, negatives, batch.candidates)
    return tally.index_add(0, places, torch.ones_like(places))[: batch.candidates]


def _mean(values: Tensor, exists: Tensor) -> Tensor:
    return ordered_sum(torch.where(exists, values, 0)) / exists.sum()


def _apart_and_squares(
    batch: Batch, distances: Tensor, triplets: Tensor, counts: list[int] | None, distance: int
) -> tuple[Tensor, Tensor]:
    """Euclidean distances [T] of anchors and their negatives, and squared norms [N] of the anchors."""
    together: Together | None = batch.together
    if together is not None and not together.shared:
        assert counts is not None
        own = together.group.of_each(triplets.T, counts).T
        own = torch.cat([own[:1] - together.first, own[1:]])
        squares = _squares(together.own.embeddings, DISTANCES[distance])
        apart = _apart(together.own, together.group.of_each(distances, counts), own, squares, distance)
        joined = together.joined(squares=squares)["squares"]
        return together.joined(counts, apart=apart)["apart"], joined
    squares = _squares(batch.embeddings, DISTANCES[distance])
    return _apart(batch, distances, triplets, squares, distance), squares


def _apart(batch: Batch, distances: Tensor, triplets: Tensor, squares: Tensor, distance: int) -> Tensor:
    anchors, _, negatives = triplets
    name = DISTANCES[distance]
    if name == "euclidean":
        return distances
    if name == "squared_euclidean":
        return distances.sqrt()
    others = squares if batch.ref_embeddings is None else _squares(batch.ref_embeddings, name)
    padded = torch.cat([others, others.new_zeros(1)])
    own, other = squares[anchors], padded[torch.where(negatives >= 0, negatives, batch.candidates)]
    # |a - n|^2 = |a|^2 + |n|^2 - 2 a.n; of rows at length 1 twice the cosine distance, which is 1 beside a zero row
    squared = (own + other) * distances if name == "cosine" else own + other + 2 * distances
    return squared.clamp_min(0).sqrt()


def _collapse(apart: Tensor, exists: Tensor, squares: Tensor, takes_part: Tensor | None) -> Tensor:
    mean_square = _mean(squares, torch.ones_like(squares, dtype=torch.bool) if takes_part is None else takes_part)
    mean = _mean(apart, exists)
    return torch.where(mean == 0, mean, mean / mean_square.sqrt())


def _squares(rows: Tensor, distance: str) -> Tensor:
    """Squared norms [N] in float64; by cosine those of rows at length 1."""
    if distance == "cosine":
        return (~zero_rows(rows)).double()
    rows = rows.contiguous()  # the order of a sum may follow from strides
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()
