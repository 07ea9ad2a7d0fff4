"""Batch-hard mining and loss.

Source of the method: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
2017, https://arxiv.org/abs/1703.07737.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fasttriplet.reference.distances import pairwise_distances
from fasttriplet.reference.loss import Chosen, TripletStats, loss_of_triplets
from fasttriplet.reference.pairs import Batch, Pairing, batch_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


class MinedTriplets(NamedTuple):
    """Like :class:`fasttriplet.MinedTriplets`, field by field."""

    positives: Tensor  # [N] int64, -1 where the anchor has none
    negatives: Tensor  # [N] int64, -1 where the anchor has none
    positive_distances: Tensor  # [N], NaN where the anchor has none
    negative_distances: Tensor  # [N], NaN where the anchor has none


def mining_distances(batch: Batch, distance: str) -> Tensor:
    """[N, M] without a graph; overflow stays below infinity, which is left to mark exclusion."""
    largest = torch.finfo(batch.rows.dtype).max
    batch = batch.detached()
    return pairwise_distances(batch.rows, distance, batch.references).clamp(-largest, largest)


def nearest(matrix: Tensor, allowed: Tensor) -> Tensor:
    """[N]: index of the smallest allowed entry of every row, the lowest of equal ones, a NaN first; -1: none."""
    if matrix.shape[1] == 0:
        return torch.full((len(matrix),), -1, device=matrix.device)
    return torch.where(allowed.any(1), torch.where(allowed, matrix, torch.inf).argmin(1), -1)


def farthest(matrix: Tensor, allowed: Tensor) -> Tensor:
    """[N]: like :func:`nearest`, of the largest entry."""
    return nearest(-matrix, allowed)


def present(matrix: Tensor, anchors: Tensor, indices: Tensor) -> Tensor:
    """Distances [T] of the chosen pairs, NaN where there is none."""
    if matrix.shape[1] == 0:
        return matrix.new_full(indices.shape, torch.nan)
    return torch.where(indices >= 0, matrix[anchors, indices.clamp_min(0)], torch.nan)


def batch_hard(batch: Batch, distance: str) -> tuple[Chosen, Tensor]:
    """For each anchor the farthest positive and the nearest negative, and the distances they were chosen by [N, M]."""
    matrix = mining_distances(batch, distance)
    anchors = torch.arange(len(matrix), device=matrix.device)
    return Chosen(anchors, farthest(matrix, batch.positive), nearest(matrix, batch.negative)), matrix


@torch.no_grad()
def mine_batch_hard(
    embeddings: Tensor, labels: Tensor, *, distance: str = "euclidean", **pairing: Unpack[Pairing]
) -> MinedTriplets:
    """For each anchor the farthest positive and the nearest negative; equal distances go to the lowest index.

    Without several labels a row or arguments of :class:`~fasttriplet.reference.Pairing` a NaN distance is the hardest
    of all, among positives and among negatives, as in ``torch.max`` and ``torch.min``. With any, rows that are not
    finite take part in nothing.
    """
    batch = batch_of(embeddings, labels, **pairing)
    given = labels.dim() == 2 or any(value is not None for value in pairing.values())
    chosen, matrix = batch_hard(batch.finite_alone() if given else batch, distance)
    if given:
        matrix = matrix * batch.poison
    positive_distances, negative_distances = (present(matrix, chosen.anchors, indices) for indices in chosen[1:])
    return MinedTriplets(chosen.positives, chosen.negatives, positive_distances, negative_distances)


def batch_hard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.3,
    distance: str = "euclidean",
    soft_margin: bool = False,
    reduction: str = "mean",
    on_missing: str = "skip",
    weights: Tensor | None = None,
    return_stats: bool = False,
    **pairing: Unpack[Pairing],
) -> Tensor | tuple[Tensor, TripletStats]:
    """See :func:`fasttriplet.batch_hard_triplet_loss`: mine without a graph, then differentiate the chosen pairs.

    A single NaN or infinite entry makes every counted loss, each reduction and the whole gradient NaN; a difference of
    distances that overflows makes its own loss, each reduction and the whole gradient NaN. With several labels a row,
    ``weights``, ``return_stats`` or arguments of :class:`~fasttriplet.reference.Pairing`, rows that are not finite take
    part in nothing, so they count for nothing either; reductions and the gradient are NaN all the same.
    """
    batch = batch_of(embeddings, labels, **pairing)
    told = labels.dim() == 2 or any(value is not None for value in pairing.values())
    plain = weights is None and not return_stats and not told
    chosen, _ = batch_hard(batch if plain else batch.finite_alone(), distance)
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
