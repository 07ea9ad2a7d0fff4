"""The semi-hard loss of every anchor by the portable engine: all pairs mined, and their distances differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fasttriplet.check import MINERS
from fasttriplet.engines import operator
from fasttriplet.pairing import poison_of
from fasttriplet.portable.checks import check_anchor_values, check_mined, check_parts, check_triplet_indices
from fasttriplet.portable.losses import hinge, softplus
from fasttriplet.portable.miners import mine_triplets
from fasttriplet.portable.pairs import Given


def semi_hard(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator: sums [N], counts [2, N], gradients."""
    _, (otherwise, within_margin, margin, soft_margin, with_gradient, weights) = Given.checked(arguments)
    miner = MINERS.index("semi_hard"), otherwise, within_margin, margin, 1, False, 0.0
    distances, triplets = mine_triplets(*arguments[:6], *miner)
    return _of_triplets(arguments, distances, triplets, margin, soft_margin, (), with_gradient, weights)


def semi_hard_of_triplets(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator: the same of triplets that were mined before."""
    given, (distances, triplets, margin, soft_margin, parts, with_gradient, weights) = Given.checked(arguments)
    embeddings, references = given.embeddings, given.ref_embeddings
    check_mined(distances, distances, triplets, embeddings)
    check_triplet_indices(triplets, len(embeddings), len(embeddings if references is None else references))
    check_parts(parts, len(embeddings), 0 if references is None else len(references))
    return _of_triplets(arguments, distances, triplets, margin, soft_margin, parts, with_gradient, weights)


def _of_triplets(
    arguments: Sequence[Any],
    distances: Tensor,
    triplets: Tensor,
    margin: float,
    soft_margin: bool,
    parts: Sequence[int],
    with_gradient: bool,
    weights: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    embeddings, ref_embeddings, distance = arguments[0], arguments[2], arguments[5]
    if weights is not None:
        check_anchor_values(weights, "weights", 0, embeddings)
    anchors, found = triplets[0], (triplets[1:] >= 0).all(0)
    difference = torch.where(found, distances[0] - distances[1], 0)
    losses, slopes = softplus(difference) if soft_margin else hinge(difference, margin)
    losses, slopes = (torch.where(found, each, 0) for each in (losses, slopes))

    def by_anchor(values: Tensor) -> Tensor:
        # In one order on any device.
        return values.new_zeros(len(embeddings)).index_put_((anchors,), values, accumulate=True)

    sums, counts = by_anchor(losses), torch.stack([by_anchor((losses != 0).long()), by_anchor(found.long())])
    poison = poison_of(*arguments[:5])
    sums = sums * poison
    if not with_gradient:
        nothing = embeddings.new_empty(0)
        return sums, counts, nothing, nothing.clone()
    share = 1 / found.sum().clamp_min(1).double()
    if weights is not None:
        share = share * weights[anchors]
    slopes = torch.stack([slopes * share, -slopes * share])
    # By a kernel where the device has one.
    backward = operator("_triplet_distances_backward", embeddings.device)
    gradients = backward(slopes, embeddings, ref_embeddings, distances, triplets, distance, parts)
    own, references = (torch.where(poison.isnan(), torch.nan, each) for each in gradients)
    return sums, counts, own, references
