"""The ways in which a loss of one process is made one of all ranks today, by hand and by pytorch-metric-learning.

Each gives a rank's rows the gradient of the whole batch's loss times the number of ranks, which
``DistributedDataParallel`` divides by, as a loss of ours with a process group does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional
from torch import Tensor

from benchmarks import originals
from benchmarks.cases import MARGIN

Loss = Callable[[Tensor, Tensor], Tensor]


def by_hand(loss: Loss, group: Any) -> Loss:
    """Rows gathered by a collective with a gradient, and the loss of all of them on every rank."""

    def value(own: Tensor, own_labels: Tensor) -> Tensor:
        rows = torch.cat(torch.distributed.nn.functional.all_gather(own, group=group))
        labels = [torch.empty_like(own_labels) for _ in range(dist.get_world_size(group))]
        dist.all_gather(labels, own_labels, group=group)
        return loss(rows, torch.cat(labels))

    return value


def pytorch_metric_learning() -> Loss | None:
    """Its wrappers around its ``BatchHardMiner`` and ``TripletMarginLoss``, in the default group, or None where they
    are not installed. The value is the loss times the number of ranks.
    """
    library = originals.pytorch_metric_learning()
    if library is None:
        return None
    try:
        from pytorch_metric_learning.utils.distributed import DistributedLossWrapper, DistributedMinerWrapper
    except ImportError:  # version 3 has them elsewhere
        return None
    metric = library.distances.LpDistance(normalize_embeddings=False)
    miner = DistributedMinerWrapper(library.miners.BatchHardMiner(distance=metric))
    loss = library.losses.TripletMarginLoss(margin=MARGIN, distance=metric, reducer=library.reducers.MeanReducer())
    wrapped = DistributedLossWrapper(loss)
    return lambda own, labels: wrapped(own, labels, miner(own, labels))
