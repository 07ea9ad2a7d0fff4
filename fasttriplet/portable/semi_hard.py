"""The semi-hard loss of every anchor by the portable engine: all pairs mined, and their distances differentiated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fasttriplet.check import MINERS
from fasttriplet.engines import operator
from fasttriplet.pairing import poison_of
from fasttriplet.portable.checks import check_anchor_values
from fasttriplet.portable.losses import hinge, softplus
from fasttriplet.portable.miners import mine_triplets
from fasttriplet.portable.pairs import Given


def semi_hard(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator: sums [N], counts [2, N], gradients."""
    given, (otherwise, within_margin, margin, soft_margin, with_gradient, weights) = Given.checked(arguments)
    if weights is not None:
        check_anchor_values(weights, "weights", 0, given.embeddings)
    embeddings, n = given.embeddings, len(given.embeddings)
    miner = MINERS.index("semi_hard"), otherwise, within_margin, margin, 1, False, 0.0
    distances, triplets = mine_triplets(*arguments[:6], *miner)
    anchors, found = triplets[0], triplets[2] >= 0
    difference = torch.where(found, distances[0] - distances[1], 0)
    losses, slopes = softplus(difference) if soft_margin else hinge(difference, margin)
    losses, slopes = (torch.where(found, each, 0) for each in (losses, slopes))

    def by_anchor(values: Tensor) -> Tensor:
        return values.new_zeros(n).index_put_((anchors,), values, accumulate=True)  # in one order on any device

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
    gradients = backward(slopes, embeddings, given.ref_embeddings, distances, triplets, given.distance)
    own, references = (torch.where(poison.isnan(), torch.nan, each) for each in gradients)
    return sums, counts, own, references
