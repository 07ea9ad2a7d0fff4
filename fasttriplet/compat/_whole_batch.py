"""Losses over the whole batch as sentence-transformers and TensorFlow Addons define them, where every anchor counts.

Both add or subtract row extremes under masks, which gives an anchor without a partner one all the same: a missing
positive is at distance 0, a missing negative as far as the farthest row. The latter happens in a batch of one class
alone, to all of its anchors at once: hard mining then finds the same row twice and the loss is that of difference 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fasttriplet import functional
from fasttriplet.arguments import LossArguments
from fasttriplet.check import DISTANCES, MINERS, OTHERWISE
from fasttriplet.compat._labels import one_class
from fasttriplet.distributed.batch import finished
from fasttriplet.functional._loss import HARDEST, batch_of, loss_of_distances, loss_of_mined, mined_distances
from fasttriplet.pairing import Batch, Miner
from fasttriplet.reduction import Options
from fasttriplet.trip import away, there_and_back

#: The nearest negative farther than the positive, or else the farthest.
_SEMI_HARD = Miner(MINERS.index("semi_hard"), OTHERWISE.index("farthest"))


def hard_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    distance: str,
    soft_margin: bool = False,
    reduction: str = "mean",
    process_group: Any = None,
) -> Tensor:
    """Batch-hard over all N anchors, of all ranks of a ``process_group``: ``reduction`` "mean" or "none"."""
    if process_group is not None and away(embeddings):
        return there_and_back(hard_loss, locals())
    at_no_difference = math.log(2) if soft_margin else max(float(margin), 0.0)
    if process_group is not None:
        batch, options = _batch_of_all(
            embeddings,
            labels,
            process_group,
            Options(float(margin), DISTANCES.index(distance), soft_margin, reduction, "zero"),
        )
        return loss_of_mined(batch, HARDEST, options) + one_class(batch.labels) * at_no_difference
    loss = functional.batch_hard_triplet_loss(
        embeddings,
        labels,
        margin=margin,
        distance=distance,
        soft_margin=soft_margin,
        reduction=reduction,
        on_missing="zero",
    )
    return loss + one_class(labels) * at_no_difference  # the loss itself is 0 there


def semi_hard_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    distance: str,
    reduction: str = "mean",
    process_group: Any = None,
) -> tuple[Tensor, Tensor]:
    """The loss over all ordered positive pairs, each with its semi-hard or else the farthest negative, and their
    anchors [T]. ``reduction`` is "mean", or "none" for the losses [T] by anchor, then positive.

    In a batch of one class, and only there, a pair lacks a negative. The originals' mask then leaves the row's minimum,
    which is 0, in its place. Nothing here asks whether that is so: an answer would have to come from the device.
    """
    if away(embeddings):
        return there_and_back(semi_hard_loss, locals())
    options = Options(float(margin), DISTANCES.index(distance), False, reduction, "skip")
    batch, _ = _batch_of_all(embeddings, labels, process_group, options)
    distances, triplets, poison, counts = mined_distances(batch, _SEMI_HARD, options.distance)
    missing = triplets < 0
    distances = torch.where(missing[1:], 0, distances)
    triplets = torch.where(missing, 0, triplets)  # any row: what is not missing counts
    return finished(batch, loss_of_distances(distances, triplets, poison, options), counts), triplets[0]


def _batch_of_all(embeddings: Tensor, labels: Tensor, process_group: Any, options: Options) -> tuple[Batch, Options]:
    """Of all ranks of a process group, where there is one."""
    given = {} if process_group is None else {"process_group": process_group}
    return batch_of("this loss", embeddings, labels, given, LossArguments, lambda: options)
