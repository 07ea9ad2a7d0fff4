"""Semi-hard, easy positive and k hardest: miners, and the losses of what they mine. Ties go to the lowest index.

Rows that are not finite take part in nothing; one such row makes all distances NaN, reductions and gradients too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fasttriplet.reference.batch_hard import farthest, mining_distances, nearest, present
from fasttriplet.reference.distances import check
from fasttriplet.reference.loss import Chosen, TripletStats, loss_of_triplets
from fasttriplet.reference.pairs import Batch, Pairing, batch_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

OTHERWISE = ("farthest", "skip")
NEGATIVES = ("hardest", "semi_hard")


class Triplets(NamedTuple):
    """Like :class:`fasttriplet.Triplets`, field by field."""

    anchors: Tensor  # [T] int64
    positives: Tensor  # [T] int64, -1 where there is none
    negatives: Tensor  # [T] int64, -1 where there is none
    positive_distances: Tensor  # [T], NaN where there is none
    negative_distances: Tensor  # [T], NaN where there is none


def nearest_beyond(matrix: Tensor, allowed: Tensor, threshold: Tensor, width: float | None, otherwise: str) -> Tensor:
    """[T]: for every row the nearest allowed entry above ``threshold`` [T], with ``width`` below threshold + width.

    Where there is none: the farthest allowed entry, or -1.
    """
    check("otherwise", otherwise, OTHERWISE)
    inside = allowed & (matrix > threshold[:, None])
    if width is not None:
        inside &= matrix < threshold[:, None] + width
    found = nearest(matrix, inside)
    return torch.where(found < 0, farthest(matrix, allowed), found) if otherwise == "farthest" else found


def semi_hard(batch: Batch, distance: str, within_margin: bool, margin: float, otherwise: str) -> tuple[Chosen, Tensor]:
    """Every ordered positive pair, by anchor then positive, with its nearest negative beyond the positive."""
    batch = batch.finite_alone()
    matrix = mining_distances(batch, distance)
    anchors, positives = batch.positive.nonzero().unbind(1)
    threshold, width = matrix[anchors, positives], margin if within_margin else None
    negatives = nearest_beyond(matrix[anchors], batch.negative[anchors], threshold, width, otherwise)
    return Chosen(anchors, positives, negatives), matrix


def easy_positive(batch: Batch, distance: str, negatives: str, otherwise: str) -> tuple[Chosen, Tensor]:
    """Every anchor with its nearest positive and its nearest negative, or its nearest beyond the positive.

    Every negative is beyond a positive that is missing.
    """
    check("negatives", negatives, NEGATIVES)
    batch = batch.finite_alone()
    matrix = mining_distances(batch, distance)
    anchors = torch.arange(len(matrix), device=matrix.device)
    positives = nearest(matrix, batch.positive)
    if negatives == "hardest":
        check("otherwise", otherwise, OTHERWISE)
        return Chosen(anchors, positives, nearest(matrix, batch.negative)), matrix
    threshold = present(matrix, anchors, positives).nan_to_num(nan=-torch.inf)
    return Chosen(anchors, positives, nearest_beyond(matrix, batch.negative, threshold, None, otherwise)), matrix


def k_hardest(batch: Batch, distance: str, k: int, kth_only: bool, skip_fraction: float) -> tuple[Chosen, Tensor]:
    """Every anchor with its farthest positive and k of its negatives in ascending order, or the last of those alone.

    Of ``count`` negatives the first ``floor(skip_fraction * count)`` are left out, a product in float64. A k above the
    number of candidates M is M.
    """
    batch = batch.finite_alone()
    matrix = mining_distances(batch, distance)
    n, m = matrix.shape
    order = torch.where(batch.negative, matrix, torch.inf).argsort(stable=True, dim=1)  # ties by index
    count = batch.negative.sum(1)
    skipped = (skip_fraction * count.double()).floor().long()
    wanted = (k - 1, k) if kth_only else (0, min(k, m))
    ranks = skipped[:, None] + torch.arange(*wanted, device=matrix.device)
    padded = torch.nn.functional.pad(order, (0, 1), value=-1)  # a column of none, for M = 0
    negatives = torch.where(ranks < count[:, None], padded.gather(1, ranks.clamp_max(m)), -1)
    anchors = torch.arange(n, device=matrix.device)[:, None].expand_as(negatives)
    positives = farthest(matrix, batch.positive)[:, None].expand_as(negatives)
    return Chosen(anchors.flatten(), positives.flatten(), negatives.flatten()), matrix


def _triplets(batch: Batch, mined: tuple[Chosen, Tensor]) -> Triplets:
    chosen, matrix = mined
    distances = (present(matrix * batch.poison, chosen.anchors, indices) for indices in chosen[1:])
    return Triplets(*chosen, *distances)


@torch.no_grad()
def mine_semi_hard(
    embeddings: Tensor,
    labels: Tensor,
    *,
    distance: str = "euclidean",
    within_margin: bool = False,
    margin: float = 0.3,
    otherwise: str = "farthest",
    **pairing: Unpack[Pairing],
) -> Triplets:
    """See :func:`semi_hard`."""
    batch = batch_of(embeddings, labels, **pairing)
    return _triplets(batch, semi_hard(batch, distance, within_margin, margin, otherwise))


@torch.no_grad()
def mine_easy_positive(
    embeddings: Tensor,
    labels: Tensor,
    *,
    distance: str = "euclidean",
    negatives: str = "hardest",
    otherwise: str = "farthest",
    **pairing: Unpack[Pairing],
) -> Triplets:
    """See :func:`easy_positive`."""
    batch = batch_of(embeddings, labels, **pairing)
    return _triplets(batch, easy_positive(batch, distance, negatives, otherwise))


@torch.no_grad()
def mine_k_hardest(
    embeddings: Tensor,
    labels: Tensor,
    *,
    distance: str = "euclidean",
    k: int = 4,
    kth_only: bool = False,
    skip_fraction: float = 0.0,
    **pairing: Unpack[Pairing],
) -> Triplets:
    """See :func:`k_hardest`."""
    batch = batch_of(embeddings, labels, **pairing)
    return _triplets(batch, k_hardest(batch, distance, k, kth_only, skip_fraction))


def semi_hard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.3,
    distance: str = "euclidean",
    soft_margin: bool = False,
    within_margin: bool = False,
    otherwise: str = "farthest",
    reduction: str = "mean",
    on_missing: str = "skip",
    weights: Tensor | None = None,
    return_stats: bool = False,
    **pairing: Unpack[Pairing],
) -> Tensor | tuple[Tensor, TripletStats]:
    """The loss of :func:`semi_hard`'s triplets."""
    batch = batch_of(embeddings, labels, **pairing)
    chosen, _ = semi_hard(batch, distance, within_margin, margin, otherwise)
    return loss_of_triplets(
        batch,
        chosen,
        distance=distance,
        margin=margin,
        soft_margin=soft_margin,
        reduction=reduction,
        on_missing=on_missing,
        weights=weights,
        return_stats=return_stats,
    )


def easy_positive_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.3,
    distance: str = "euclidean",
    soft_margin: bool = False,
    negatives: str = "hardest",
    otherwise: str = "farthest",
    reduction: str = "mean",
    on_missing: str = "skip",
    weights: Tensor | None = None,
    return_stats: bool = False,
    **pairing: Unpack[Pairing],
) -> Tensor | tuple[Tensor, TripletStats]:
    """The loss of :func:`easy_positive`'s triplets."""
    batch = batch_of(embeddings, labels, **pairing)
    chosen, _ = easy_positive(batch, distance, negatives, otherwise)
    return loss_of_triplets(
        batch,
        chosen,
        distance=distance,
        margin=margin,
        soft_margin=soft_margin,
        reduction=reduction,
        on_missing=on_missing,
        weights=weights,
        return_stats=return_stats,
    )


def k_hardest_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.3,
    distance: str = "euclidean",
    soft_margin: bool = False,
    k: int = 4,
    kth_only: bool = False,
    skip_fraction: float = 0.0,
    reduction: str = "mean",
    on_missing: str = "skip",
    weights: Tensor | None = None,
    return_stats: bool = False,
    **pairing: Unpack[Pairing],
) -> Tensor | tuple[Tensor, TripletStats]:
    """The loss of :func:`k_hardest`'s triplets."""
    batch = batch_of(embeddings, labels, **pairing)
    chosen, _ = k_hardest(batch, distance, k, kth_only, skip_fraction)
    return loss_of_triplets(
        batch,
        chosen,
        distance=distance,
        margin=margin,
        soft_margin=soft_margin,
        reduction=reduction,
        on_missing=on_missing,
        weights=weights,
        return_stats=return_stats,
    )
