"""Easy positive mining and loss: every anchor with its nearest positive."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from fasttriplet.arguments import LossArguments, Pairing, takes
from fasttriplet.check import DISTANCES, MINERS, NEGATIVES, OTHERWISE, check_choice
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
def easy_positive_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.3,
    distance: str = "euclidean",
    soft_margin: bool = False,
    negatives: str = "hardest",
    otherwise: str = "farthest",
    reduction: str = "mean",
    on_missing: str = "skip",
    **arguments: Unpack[LossArguments],
) -> LossResult:
    """Easy positive triplet loss: each anchor with its nearest positive and a hard or semi-hard negative.

    The loss of a triplet is ``max(d(a, p) - d(a, n) + margin, 0)``, or ``log(1 + exp(d(a, p) - d(a, n)))`` with
    ``soft_margin``. Choices are those of float64 arithmetic, ties to the lowest index. No [N, N] array is made. A class
    need not become one point: it is enough that each sample has some neighbour of its class.

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides.
        labels: [N] of any integer dtype or bool, equal ones make a positive pair; or [N, C] bool, several a row.
        margin: finite number; not used when ``soft_margin`` is true. Default 0.3.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``.
        soft_margin: softplus in place of the hinge.
        negatives: ``"hardest"``, the nearest negative; or ``"semi_hard"``, the nearest one farther than the positive,
            for which an anchor without a positive takes the nearest of all.
        otherwise: where no negative is semi-hard ``"farthest"`` takes the farthest negative, ``"skip"`` none, and the
            triplet does not count.
        reduction: ``"none"`` gives [N]; ``"sum"``; ``"mean"`` over the triplets that count; ``"mean_nonzero"`` over
            the losses above zero. Where nothing counts the result is 0, joined to the graph.
        on_missing: what to do where a triplet lacks a positive or a negative. ``"skip"``: it does not count.
            ``"zero"``: a missing positive is at distance 0 and the triplet counts; without a negative it never does.
            ``"error"``: ``ValueError`` where an anchor that is not ignored has no complete triplet.
        **arguments: who pairs with whom, weights and statistics: :class:`fasttriplet.arguments.LossArguments`.

    Returns:
        The loss, float64 where rows or references are float64, else float32: [N] for
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
        >>> from fasttriplet import easy_positive_triplet_loss
        >>> embeddings = torch.tensor([[0.0], [1.0], [3.0], [7.0], [8.0]], requires_grad=True)
        >>> easy_positive_triplet_loss(embeddings, torch.tensor([0, 0, 0, 1, 1]), margin=3.0, reduction="none").tolist()
        [0.0, 0.0, 1.0, 0.0, 0.0]

    Source: H. Xuan, A. Stylianou, R. Pless, "Improved Embeddings with Easy Positive Triplet Mining", 2020,
    https://arxiv.org/abs/1904.04370.
    """
    if away(embeddings):
        return there_and_back(easy_positive_triplet_loss, locals())
    if wants_eager(arguments):
        return eagerly(easy_positive_triplet_loss, locals())
    batch, (options, miner) = batch_of(
        *("easy_positive_triplet_loss", embeddings, labels, arguments, LossArguments),
        lambda: (checked_options(margin, distance, soft_margin, reduction, on_missing), _miner(negatives, otherwise)),
    )
    return loss_of_mined(batch, miner, options)


@torch.no_grad()
@takes(Pairing)
def mine_easy_positive(
    embeddings: Tensor,
    labels: Tensor,
    *,
    distance: str = "euclidean",
    negatives: str = "hardest",
    otherwise: str = "farthest",
    **pairing: Unpack[Pairing],
) -> Triplets:
    """Each anchor with its nearest positive and a hard or semi-hard negative, without a graph.

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides.
        labels: [N] of any integer dtype or bool, equal ones make a positive pair; or [N, C] bool, several a row.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``.
        negatives: ``"hardest"``, the nearest negative; or ``"semi_hard"``, the nearest one farther than the positive,
            for which an anchor without a positive takes the nearest of all.
        otherwise: where no negative is semi-hard ``"farthest"`` takes the farthest negative, ``"skip"`` none.
        **pairing: who pairs with whom: :class:`fasttriplet.arguments.Pairing`.

    Returns:
        :class:`fasttriplet.Triplets` of N triplets, one an anchor. The indices are those float64 arithmetic picks;
        equal distances go to the lowest index. Rows that are not finite take part in nothing, and one that is not
        ignored makes all distances NaN.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value.

    Example:
        >>> import torch
        >>> from fasttriplet import mine_easy_positive
        >>> mined = mine_easy_positive(torch.tensor([[0.0], [1.0], [3.0], [7.0], [8.0]]), torch.tensor([0, 0, 0, 1, 1]))
        >>> mined.positives.tolist(), mined.negatives.tolist()
        ([1, 0, 1, 4, 3], [3, 3, 3, 2, 2])

    Source: H. Xuan, A. Stylianou, R. Pless, "Improved Embeddings with Easy Positive Triplet Mining", 2020,
    https://arxiv.org/abs/1904.04370.
    """
    if away(embeddings):
        return there_and_back(mine_easy_positive, locals())
    if wants_eager(pairing):
        return eagerly(mine_easy_positive, locals())
    batch, (miner, code) = batch_of(
        *("mine_easy_positive", embeddings, labels, pairing, Pairing),
        lambda: (_miner(negatives, otherwise), check_choice("distance", distance, DISTANCES)),
    )
    return mined_triplets(batch, miner, code)


def _miner(negatives: str, otherwise: str) -> Miner:
    name = ("easy_positive", "easy_positive_semi_hard")[check_choice("negatives", negatives, NEGATIVES)]
    return Miner(MINERS.index(name), check_choice("otherwise", otherwise, OTHERWISE))
