"""Batch-hard mining and loss: every anchor with its farthest positive and its nearest negative."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from fasttriplet.arguments import LossArguments, Pairing, takes
from fasttriplet.autograd import BatchHardLoss
from fasttriplet.check import DISTANCES, ON_MISSING, REDUCTIONS, check_bool, check_choice, check_margin
from fasttriplet.distributed.untransformed import eagerly, wants_eager
from fasttriplet.engines import operator
from fasttriplet.functional._loss import (
    HARDEST,
    LossResult,
    batch_of,
    checked_options,
    is_plain,
    loss_of_mined,
    mined_triplets,
    with_stats,
)
from fasttriplet.miners import MinedTriplets
from fasttriplet.pairing import widened
from fasttriplet.trip import away, there_and_back


@with_stats
@takes(LossArguments)
def batch_hard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.3,
    distance: str = "euclidean",
    soft_margin: bool = False,
    reduction: str = "mean",
    on_missing: str = "skip",
    **arguments: Unpack[LossArguments],
) -> LossResult:
    """Batch-hard triplet loss: each anchor against its farthest positive and its nearest negative in the batch.

    For anchor a the loss is ``max(d(a, p) - d(a, n) + margin, 0)``, or ``log(1 + exp(d(a, p) - d(a, n)))`` with
    ``soft_margin``. The chosen p and n are those that float64 arithmetic picks from the values given; distances that
    are equal in float64 go to the lowest index. No [N, N] array is made: memory beyond the inputs and the gradient is
    O(N * D).

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides.
        labels: [N] of any integer dtype or bool, on the same device; equal labels make a positive pair. Or
            [N, C] bool, multi-hot, several labels a row: a positive pair has a label in common, any other is a
            negative one.
        margin: finite number; not used when ``soft_margin`` is true. Default 0.3.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` (1 - cos, rows are normalised inside, the
            cosine of a zero row is 0, and of float64 rows shorter than its smallest normal number, 2.2e-308) or
            ``"inner_product"`` (-x.y).
        soft_margin: softplus in place of the hinge; stable for any difference.
        reduction: ``"none"`` gives [N]; ``"sum"``; ``"mean"`` over the anchors that count; ``"mean_nonzero"`` over the
            losses above zero. Where nothing counts the result is 0, joined to the graph.
        on_missing: what to do with an anchor that has no positive or no negative. ``"skip"``: it does not count, its
            entry in ``"none"`` is 0. ``"zero"``: a missing positive is at distance 0 and the anchor counts; a missing
            negative still skips. ``"error"``: ``ValueError``, but not in a batch with a row that is not finite, whose
            loss is NaN; on CUDA this waits for the device, as nothing else in its kernels does.
        **arguments: who pairs with whom, weights and statistics: :class:`fasttriplet.arguments.LossArguments`.

    Returns:
        The loss, float64 where embeddings or references are float64, else float32 (also for half precision and under
        autocast): [N] for ``reduction="none"``, otherwise a scalar; with ``return_stats=True``
        (loss, :class:`fasttriplet.TripletStats`). Gradients have the dtype and the shape of ``embeddings`` and
        ``ref_embeddings``; a pair at distance 0 brings them nothing, but by inner product, which does not see where
        rows coincide. If any entry is NaN or infinite, every counted loss, each reduction and the whole gradient are
        NaN. Where ``d(a, p) - d(a, n) + margin`` leaves float64's range, towards either end, that loss, each reduction
        and the whole gradient are. A softplus that float64 rounds to zero is not above zero.
        With several labels a row, ``weights``, ``return_stats``, arguments about who pairs with whom or under a
        transform of ``torch.func``, a row that is not finite takes part in nothing, so that it does not count itself;
        the rest is the same.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value, or with ``on_missing="error"`` an anchor without a positive
            or a negative.

    Example:
        >>> import torch
        >>> from fasttriplet import batch_hard_triplet_loss
        >>> embeddings = torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0], [3.0, 4.0]], requires_grad=True)
        >>> loss = batch_hard_triplet_loss(embeddings, torch.tensor([0, 0, 1, 1]), margin=1.0)
        >>> loss.backward()
        >>> round(loss.item(), 4)
        0.6893

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737.
    """
    if away(embeddings):
        return there_and_back(batch_hard_triplet_loss, locals())
    if wants_eager(arguments):
        return eagerly(batch_hard_triplet_loss, locals())
    told = "batch_hard_triplet_loss", embeddings, labels, arguments, LossArguments
    if not is_plain(*told):
        batch, options = batch_of(*told, lambda: checked_options(margin, distance, soft_margin, reduction, on_missing))
        if not batch.is_plain_in_group_of_one:
            return loss_of_mined(batch, HARDEST, options)
    return BatchHardLoss.apply(
        widened(embeddings),
        labels,
        check_margin(margin),
        check_choice("distance", distance, DISTANCES),
        check_bool("soft_margin", soft_margin),
        check_choice("reduction", reduction, REDUCTIONS),
        check_choice("on_missing", on_missing, ON_MISSING),
    )


@torch.no_grad()
@takes(Pairing)
def mine_batch_hard(
    embeddings: Tensor,
    labels: Tensor,
    *,
    distance: str = "euclidean",
    **pairing: Unpack[Pairing],
) -> MinedTriplets:
    """For each anchor the farthest positive and the nearest negative of the batch, without a graph.

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides.
        labels: [N] of any integer dtype or bool, on the same device; equal labels make a positive pair. Or
            [N, C] bool, several labels a row.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``; see
            :func:`batch_hard_triplet_loss`.
        **pairing: who pairs with whom: :class:`fasttriplet.arguments.Pairing`.

    Returns:
        :class:`MinedTriplets` of [N] tensors: positives and negatives (int64 indices into the batch or the references,
        -1 where there is none) and their distances (NaN where there is none). The indices are those float64 arithmetic
        picks; equal distances go to the lowest index. A row with a NaN or infinite entry is at distance NaN from every
        row, and a NaN distance is the hardest of all, among positives and among negatives. With several labels a row or
        arguments about who pairs with whom such a row takes part in nothing, and one that is not ignored makes all
        distances NaN.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value.

    Example:
        >>> import torch
        >>> from fasttriplet import mine_batch_hard
        >>> mined = mine_batch_hard(torch.tensor([[0.0], [1.0], [3.0], [9.0]]), torch.tensor([0, 0, 1, 1]))
        >>> mined.positives.tolist(), mined.negatives.tolist()
        ([1, 0, 3, 2], [2, 2, 1, 1])

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737.
    """
    if away(embeddings):
        return there_and_back(mine_batch_hard, locals())
    if wants_eager(pairing):
        return eagerly(mine_batch_hard, locals())
    told = "mine_batch_hard", embeddings, labels, pairing, Pairing
    if not is_plain(*told):
        batch, code = batch_of(*told, lambda: check_choice("distance", distance, DISTANCES))
        if not batch.is_plain_in_group_of_one:
            return MinedTriplets(*mined_triplets(batch, HARDEST, code)[1:])
    wide = widened(embeddings)
    distances, positives, negatives = operator("mine_batch_hard", wide.device)(
        wide, labels, check_choice("distance", distance, DISTANCES)
    )
    positive_distances, negative_distances = distances.to(wide.dtype).unbind(0)
    return MinedTriplets(positives, negatives, positive_distances, negative_distances)
