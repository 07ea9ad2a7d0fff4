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
    *others, with_gradient = arguments
    sums, counts, own, references = _semi_hard(tuple(others), None, with_gradient)
    return sums, counts, own, references


def semi_hard_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """The operator: gradients, ``grad`` [N] being that of the sums."""
    check_anchor_values(grad, "grad", 0, arguments[0])
    *_, own, references = _semi_hard(arguments, grad, True)
    return own, references


def _semi_hard(
    arguments: tuple[Any, ...], upstream: Tensor | None, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Without ``upstream`` the gradients are those of the sums' sum divided by the number of pairs with a negative."""
    given, (otherwise, within_margin, margin, soft_margin) = Given.checked(arguments)
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
    share = 1 / found.sum().clamp_min(1).double() if upstream is None else upstream[anchors]
    slopes = torch.stack([slopes * share, -slopes * share])
    # By a kernel where the device has one.
    backward = operator("_triplet_distances_backward", embeddings.device)
    gradients = backward(slopes, embeddings, given.ref_embeddings, distances, triplets, given.distance)
    own, references = (torch.where(poison.isnan(), torch.nan, each) for each in gradients)
    return sums, counts, own, references
