"""Losses over all pairs: every triplet, and softly weighted distances. Their statistics are of batch-hard's triplets.

Sources: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017 (batch
all); E. Ristani, C. Tomasi, "Features for Multi-Target Multi-Camera Tracking and Re-Identification", 2018 (weighted).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fasttriplet.reference.batch_hard import batch_hard
from fasttriplet.reference.distances import all_pairs
from fasttriplet.reference.loss import (
    Losses,
    TripletStats,
    above_zero,
    hinge,
    losses_of,
    reduced,
    refuse_missing,
    statistics,
    unless_overflowed,
)
from fasttriplet.reference.pairs import Pairing, batch_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


def batch_all_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.3,
    distance: str = "euclidean",
    soft_margin: bool = False,
    reduction: str = "mean_nonzero",
    on_missing: str = "skip",
    weights: Tensor | None = None,
    return_stats: bool = False,
    **pairing: Unpack[Pairing],
) -> Tensor | tuple[Tensor, TripletStats]:
    """Every positive with every negative of each anchor; ``reduction="none"`` gives the sum of each anchor's [N]."""
    batch = batch_of(embeddings, labels, **pairing).finite_alone()
    poisoned = batch.poisoned()
    matrix = all_pairs(poisoned.rows, distance, poisoned.references)
    sums, active, negative_counts = [], [], torch.zeros_like(batch.negative[:1].sum(0))
    for distances, positive, negative in zip(matrix, batch.positive, batch.negative, strict=True):
        difference = distances[positive][:, None] - distances[negative]  # [P, number of n]
        counts = torch.ones_like(difference, dtype=torch.bool)
        difference = unless_overflowed(poisoned, difference, counts, 0 if soft_margin else margin)
        sums.append(hinge(difference, margin, soft_margin).sum())
        is_active = above_zero(difference, margin, soft_margin)
        active.append(is_active.sum().long())
        negative_counts[negative] += is_active.sum(0).long()
    counted = batch.positive.sum(1) * batch.negative.sum(1)
    refuse_missing(counted > 0, batch.takes_part & (batch.poison == 1), on_missing)
    of_anchors = Losses(
        torch.stack(sums) if sums else (0 * poisoned.rows).sum(1),
        counted,
        torch.stack(active) if active else counted,
    )
    of_weights = None if weights is None else weights.to(embeddings.dtype)
    loss = reduced(poisoned, of_anchors, of_weights, reduction)
    if not return_stats:
        return loss
    hardest, _ = batch_hard(batch, distance)
    return loss, statistics(poisoned, hardest, of_anchors, distance, negative_counts)


def weighted_triplet_loss(
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
    """Each anchor's mean positive, weighted towards the far ones, and mean negative, weighted towards the near ones."""
    batch = batch_of(embeddings, labels, **pairing).finite_alone()
    poisoned = batch.poisoned()
    matrix = all_pairs(poisoned.rows, distance, poisoned.references)
    has = batch.positive.any(1), batch.negative.any(1)
    if batch.poison.isnan():  # every anchor counts, and its loss is NaN
        has = batch.takes_part, batch.takes_part
    refuse_missing(has[0] & has[1], batch.takes_part & (batch.poison == 1), on_missing)
    distances = (
        soft_mean(matrix, batch.positive, 1) * batch.poison,
        soft_mean(matrix, batch.negative, -1) * batch.poison,
    )
    losses = losses_of(poisoned, distances, has, margin=margin, soft_margin=soft_margin, on_missing=on_missing)
    of_weights = None if weights is None else weights.to(embeddings.dtype)
    loss = reduced(poisoned, losses, of_weights, reduction)
    if not return_stats:
        return loss
    hardest, _ = batch_hard(batch, distance)
    return loss, statistics(poisoned, hardest, losses, distance)


def soft_mean(matrix: Tensor, allowed: Tensor, sign: int) -> Tensor:
    """[N]: the mean of every row's allowed entries d, weighted by softmax(sign * d); 0 where none is allowed."""
    kept = torch.where(allowed, matrix, 0)
    scores = torch.where(allowed, sign * kept, -torch.inf)
    scores = torch.where(allowed.any(1, keepdim=True), scores, 0)  # a softmax over nothing is NaN
    return (scores.softmax(1) * kept).sum(1)
