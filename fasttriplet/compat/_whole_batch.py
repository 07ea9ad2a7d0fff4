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
from fasttriplet.compat._labels import one_class
from fasttriplet.pair_distances import unit
from fasttriplet.pairing import widened


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


def semi_hard_loss(embeddings: Tensor, labels: Tensor, *, margin: float, distance: str) -> Tensor:
    """The mean over all ordered positive pairs, each with its semi-hard or else the farthest negative.

    In a batch of one class the originals' mask leaves the row's minimum, which is 0, in place of the negative.
    """
    if embeddings.ndim == 2 and labels.shape == embeddings.shape[:1] and bool(one_class(labels)):
        return _mean_without_negatives(widened(embeddings), float(margin), distance)
    return functional.semi_hard_triplet_loss(
        embeddings, labels, margin=margin, distance=distance, otherwise="farthest", reduction="mean"
    )


def _mean_without_negatives(rows: Tensor, margin: float, distance: str) -> Tensor:
    if rows.shape[0] < 2:
        return (0 * rows).sum()
    if distance == "cosine":
        rows, zero = unit(rows)
    distances = torch.nn.functional.pdist(rows)  # [N (N - 1) / 2], its slope at 0 is 0
    if distance != "euclidean":
        distances = distances.square()
    if distance == "cosine":
        first, second = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
        distances = torch.where(zero[first] | zero[second], 1, distances / 2)  # a zero row is at distance 1
    return torch.relu(distances + margin).mean()
