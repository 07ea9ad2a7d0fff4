"""Losses over the whole batch as sentence-transformers and TensorFlow Addons define them, where every anchor counts.

Both add or subtract row extremes under masks, which gives an anchor without a partner one all the same: a missing
positive is at distance 0, a missing negative as far as the farthest row. The latter happens in a batch of one class
alone, to all of its anchors at once: hard mining then finds the same row twice and the loss is that of difference 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fasttriplet import functional
from fasttriplet.arguments import Pairing
from fasttriplet.check import DISTANCES, MINERS, OTHERWISE
from fasttriplet.compat._labels import one_class
from fasttriplet.functional._loss import Miner, loss_of_distances, mined_distances
from fasttriplet.pairing import batch_of
from fasttriplet.reduction import Options
from fasttriplet.trip import away, there_and_back

#: The nearest negative farther than the positive, or else the farthest.
_SEMI_HARD: Miner = (MINERS.index("semi_hard"), OTHERWISE.index("farthest"), False, 0.0, 1, False, 0.0)


def hard_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    distance: str,
    soft_margin: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Batch-hard over all N anchors: ``reduction`` "mean" or "none"."""
    loss = functional.batch_hard_triplet_loss(
        embeddings,
        labels,
        margin=margin,
        distance=distance,
        soft_margin=soft_margin,
        reduction=reduction,
        on_missing="zero",
    )
    at_no_difference = math.log(2) if soft_margin else max(float(margin), 0.0)
    return loss + one_class(labels) * at_no_difference  # the loss itself is 0 there


def semi_hard_loss(
    embeddings: Tensor, labels: Tensor, *, margin: float, distance: str, reduction: str = "mean"
) -> tuple[Tensor, Tensor]:
    """The loss over all ordered positive pairs, each with its semi-hard or else the farthest negative, and their
    anchors [T]. ``reduction`` is "mean", or "none" for the losses [T] by anchor, then positive.

    In a batch of one class, and only there, a pair lacks a negative. The originals' mask then leaves the row's minimum,
    which is 0, in its place. Nothing here asks whether that is so: an answer would have to come from the device.
    """
    if away(embeddings):
        return there_and_back(semi_hard_loss, locals())
    batch = batch_of("semi_hard_triplet_loss", embeddings, labels, {}, Pairing)
    options = Options(float(margin), DISTANCES.index(distance), False, reduction, "skip")
    distances, triplets, poison = mined_distances(batch, _SEMI_HARD, options.distance)
    missing = triplets < 0
    distances = torch.where(missing[1:], 0, distances)
    triplets = torch.where(missing, 0, triplets)  # any row: what is not missing counts
    loss = loss_of_distances(distances, triplets, poison, options)
    return loss.to(batch.embeddings.dtype), triplets[0]
