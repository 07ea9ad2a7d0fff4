"""k-hardest mining and loss: every anchor with its farthest positive and k of its nearest negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from fasttriplet.arguments import LossArguments, Pairing, takes
from fasttriplet.check import DISTANCES, MINERS, check_bool, check_choice, check_count, check_fraction
from fasttriplet.distributed.untransformed import eagerly, wants_eager
from fasttriplet.functional._loss import (
    LossResult,
    batch_of,
    checked_options,
    loss_of_mined,
    mined_triplets,
    with_stats,
)
from fasttriplet.miners import Triplets
from fasttriplet.pairing import Miner
from fasttriplet.trip import away, there_and_back


@with_stats
@takes(LossArguments)
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
    **arguments: Unpack[LossArguments],
) -> LossResult:
    """Triplet loss of each anchor's farthest positive with each of its k nearest negatives.

    The loss of a triplet is ``max(d(a, p) - d(a, n) + margin, 0)``, or ``log(1 + exp(d(a, p) - d(a, n)))`` with
    ``soft_margin``. Choices are those of float64 arithmetic, ties to the lowest index. No [N, N] array is made.

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides.
        labels: [N] of any integer dtype or bool, equal ones make a positive pair; or [N, C] bool, several a row.
        margin: finite number; not used when ``soft_margin`` is true. Default 0.3.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``.
        soft_margin: softplus in place of the hinge.
        k: how many negatives, at least 1. Default 4. An anchor with fewer has fewer triplets that count. Above the
            number of candidates, N or that of the references, it is that number.
        kth_only: the k-th of them alone.
        skip_fraction: of an anchor's ``count`` negatives the nearest ``floor(skip_fraction * count)`` are left out
            first, which spares wrongly labelled samples; at least 0 and below 1. Default 0.
        reduction: ``"none"`` gives [N * min(k, candidates)], by anchor, then distance, or [N] with ``kth_only``;
            ``"sum"``; ``"mean"`` over the triplets that count; ``"mean_nonzero"`` over the losses above zero. Where
            nothing counts the result is 0, joined to the graph.
        on_missing: what to do where a triplet lacks a positive or a negative. ``"skip"``: it does not count.
            ``"zero"``: a missing positive is at distance 0 and the triplet counts; without a negative it never does.
            ``"error"``: ``ValueError`` where an anchor that is not ignored has no complete triplet.
        **arguments: who pairs with whom, weights and statistics: :class:`fasttriplet.arguments.LossArguments`.

    Returns:
        The loss, float64 where rows or references are float64, else float32: [N * min(k, candidates)] or [N] for
        ``reduction="none"``, otherwise a scalar; with ``return_stats=True`` (loss, :class:`fasttriplet.TripletStats`).
        If any entry of a row that is not ignored is NaN or infinite, the losses that count, each reduction and the
        whole gradient are NaN, and ``on_missing="error"`` refuses nothing; where a difference of distances overflows
        float64, that loss, each reduction and the whole gradient.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value, or with ``on_missing="error"`` an anchor without a complete
            triplet.

    Example:
        >>> import torch
        >>> from fasttriplet import k_hardest_triplet_loss
        >>> embeddings = torch.tensor([[0.0], [1.0], [3.0], [7.0]], requires_grad=True)
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> k_hardest_triplet_loss(embeddings, labels, k=2, margin=1.5, reduction="none").tolist()
        [0.0, 0.0, 0.5, 0.0, 3.5, 2.5, 0.0, 0.0]

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737, of which this is the extension to k negatives.
    """
    if away(embeddings):
        return there_and_back(k_hardest_triplet_loss, locals())
    if wants_eager(arguments):
        return eagerly(k_hardest_triplet_loss, locals())
    batch, (options, miner) = batch_of(
        *("k_hardest_triplet_loss", embeddings, labels, arguments, LossArguments),
        lambda: (
            checked_options(margin, distance, soft_margin, reduction, on_missing),
            _miner(k, kth_only, skip_fraction),
        ),
    )
    return loss_of_mined(batch, miner, options)


@torch.no_grad()
@takes(Pairing)
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
    """Each anchor's farthest positive with each of its k nearest negatives, without a graph.

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides.
        labels: [N] of any integer dtype or bool, equal ones make a positive pair; or [N, C] bool, several a row.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``.
        k: how many negatives, at least 1. Default 4. An anchor with fewer has fewer triplets that count. Above the
            number of candidates, N or that of the references, it is that number.
        kth_only: the k-th of them alone.
        skip_fraction: of an anchor's ``count`` negatives the nearest ``floor(skip_fraction * count)`` are left out
            first, which spares wrongly labelled samples; at least 0 and below 1. Default 0.
        **pairing: who pairs with whom: :class:`fasttriplet.arguments.Pairing`.

    Returns:
        :class:`fasttriplet.Triplets` of N * min(k, candidates) triplets, by anchor, then distance, or of N with
        ``kth_only``. The indices are those float64 arithmetic picks; equal distances go to the lowest index. Rows that
        are not finite take part in nothing, and one that is not ignored makes all distances NaN.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value.

    Example:
        >>> import torch
        >>> from fasttriplet import mine_k_hardest
        >>> mined = mine_k_hardest(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([0, 0, 1, 1]), k=2)
        >>> mined.negatives.view(4, 2).tolist()
        [[2, 3], [2, 3], [1, 0], [1, 0]]

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737, of which this is the extension to k negatives.
    """
    if away(embeddings):
        return there_and_back(mine_k_hardest, locals())
    if wants_eager(pairing):
        return eagerly(mine_k_hardest, locals())
    batch, (miner, code) = batch_of(
        *("mine_k_hardest", embeddings, labels, pairing, Pairing),
        lambda: (_miner(k, kth_only, skip_fraction), check_choice("distance", distance, DISTANCES)),
    )
    return mined_triplets(batch, miner, code)


def _miner(k: int, kth_only: bool, skip_fraction: float) -> Miner:
    return Miner(
        MINERS.index("k_hardest"),
        k=check_count("k", k),
        kth_only=check_bool("kth_only", kth_only),
        skip_fraction=check_fraction("skip_fraction", skip_fraction),
    )
