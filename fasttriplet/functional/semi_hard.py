"""Semi-hard mining and loss: for every positive pair the nearest negative farther than the positive."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from fasttriplet import transforms
from fasttriplet.arguments import LossArguments, Pairing, takes
from fasttriplet.autograd import SemiHardSums
from fasttriplet.check import DISTANCES, MINERS, OTHERWISE, check_bool, check_choice, check_margin
from fasttriplet.distributed.batch import Together, finished
from fasttriplet.distributed.semi_hard import semi_hard_sums_of_all
from fasttriplet.distributed.untransformed import eagerly, wants_eager
from fasttriplet.functional._loss import (
    LossResult,
    batch_of,
    checked_options,
    loss_of_mined,
    mined_triplets,
    refuse_missing,
    with_stats,
)
from fasttriplet.miners import Triplets
from fasttriplet.pairing import Batch, Miner
from fasttriplet.reduction import Losses, Options, reduced
from fasttriplet.trip import away, there_and_back


@with_stats
@takes(LossArguments)
def semi_hard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.3,
    distance: str = "euclidean",
    soft_margin: bool = False,
    within_margin: bool = False,
    otherwise: str = "farthest",
    reduction: str = "mean",
    on_missing: str = "skip",
    **arguments: Unpack[LossArguments],
) -> LossResult:
    """Semi-hard triplet loss: each ordered positive pair with the nearest negative farther from the anchor.

    For the pair (a, p) the negative n is the nearest to a with ``d(a, n) > d(a, p)``; the loss is ``max(d(a, p) -
    d(a, n) + margin, 0)``, or ``log(1 + exp(d(a, p) - d(a, n)))`` with ``soft_margin``. Choices are those of float64
    arithmetic, ties to the lowest index. No [N, N] array is made, and of the T positive pairs only what is returned:
    [T] for ``reduction="none"``; for statistics they are all listed.

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides.
        labels: [N] of any integer dtype or bool, equal ones make a positive pair; or [N, C] bool, several a row.
        margin: finite number; not used when ``soft_margin`` is true and ``within_margin`` false. Default 0.3.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``.
        soft_margin: softplus in place of the hinge.
        within_margin: only negatives with ``d(a, n) < d(a, p) + margin``.
        otherwise: where no negative is semi-hard ``"farthest"`` takes the farthest negative, ``"skip"`` none, and the
            triplet does not count.
        reduction: ``"none"`` gives [T], by anchor, then positive; ``"sum"``; ``"mean"`` over the triplets that count;
            ``"mean_nonzero"`` over the losses above zero. Where nothing counts the result is 0, joined to the graph.
        on_missing: what to do where a triplet lacks a negative or an anchor has no positive. ``"skip"`` and
            ``"zero"``: it does not count. ``"error"``: ``ValueError`` where an anchor that is not ignored has no
            complete triplet.
        **arguments: who pairs with whom, weights and statistics: :class:`fasttriplet.arguments.LossArguments`.

    Returns:
        The loss, float64 where rows or references are float64, else float32: [T] for
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
        >>> from fasttriplet import semi_hard_triplet_loss
        >>> embeddings = torch.tensor([[0.0], [1.0], [3.0], [7.0]], requires_grad=True)
        >>> semi_hard_triplet_loss(embeddings, torch.tensor([0, 0, 1, 1]), margin=1.5, reduction="none").tolist()
        [0.0, 0.5, 2.5, 0.0]

    Source: F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering",
    2015, https://arxiv.org/abs/1503.03832.
    """
    if away(embeddings):
        return there_and_back(semi_hard_triplet_loss, locals())
    if wants_eager(arguments):
        return eagerly(semi_hard_triplet_loss, locals())

    def checked() -> tuple[Options, Miner]:
        options = checked_options(margin, distance, soft_margin, reduction, on_missing)
        return options, _miner(within_margin, options.margin, otherwise)

    batch, (options, miner) = batch_of("semi_hard_triplet_loss", embeddings, labels, arguments, LossArguments, checked)
    if batch.return_stats or reduction == "none" or transforms.active():  # which need every pair
        return loss_of_mined(batch, miner, options)
    weights = None if batch.weights is None else batch.weights.double()
    sums, (active, counted), poison = _sums(batch, weights, miner, options)
    if on_missing == "error":
        refuse_missing(batch, counted > 0, poison)
    return finished(batch, reduced(Losses(sums, counted, active), weights, poison, reduction))


def _sums(batch: Batch, weights: Tensor | None, miner: Miner, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Sums [N], counts [2, N] and poison of :class:`SemiHardSums`, of all anchors."""
    together: Together | None = batch.together
    if together is not None and together.shared:
        return semi_hard_sums_of_all(batch, weights, miner, options)
    # The gradient of weights is the sums: what comes back through it is no multiple of the weights.
    multiple = torch.is_grad_enabled() and not (weights is not None and weights.requires_grad)
    own, shares = batch, None if weights is None else weights.detach()
    if together is not None:
        own, shares = together.own, None if shares is None else together.group.of_each(shares, together.sizes)
    told = options.distance, *miner[1:4], options.soft_margin, multiple
    sums, counts, poison = SemiHardSums.apply(*own.arguments, shares, *told)
    if together is None:
        return sums, counts, poison
    joined = together.joined(sums=sums, counts=counts.T)
    return joined["sums"], joined["counts"].T, together.poison(poison)


@torch.no_grad()
@takes(Pairing)
def mine_semi_hard(
    embeddings: Tensor,
    labels: Tensor,
    *,
    distance: str = "euclidean",
    within_margin: bool = False,
    margin: float = 0.3,
    otherwise: str = "farthest",
    **pairing: Unpack[Pairing],
) -> Triplets:
    """Each ordered positive pair with the nearest negative farther from the anchor, without a graph.

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides.
        labels: [N] of any integer dtype or bool, equal ones make a positive pair; or [N, C] bool, several a row.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``.
        within_margin: only negatives with ``d(a, n) < d(a, p) + margin``.
        margin: finite number; used with ``within_margin`` alone. Default 0.3.
        otherwise: where no negative is semi-hard ``"farthest"`` takes the farthest negative, ``"skip"`` none.
        **pairing: who pairs with whom: :class:`fasttriplet.arguments.Pairing`.

    Returns:
        :class:`fasttriplet.Triplets` of the T ordered positive pairs, by anchor, then positive. The indices are those
        float64 arithmetic picks; equal distances go to the lowest index. Rows that are not finite take part in nothing,
        and one that is not ignored makes all distances NaN.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value.

    Example:
        >>> import torch
        >>> from fasttriplet import mine_semi_hard
        >>> mined = mine_semi_hard(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([0, 0, 1, 1]))
        >>> mined.anchors.tolist(), mined.positives.tolist(), mined.negatives.tolist()
        ([0, 1, 2, 3], [1, 0, 3, 2], [2, 2, 0, 1])

    Source: F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering",
    2015, https://arxiv.org/abs/1503.03832.
    """
    if away(embeddings):
        return there_and_back(mine_semi_hard, locals())
    if wants_eager(pairing):
        return eagerly(mine_semi_hard, locals())
    batch, (miner, code) = batch_of(
        *("mine_semi_hard", embeddings, labels, pairing, Pairing),
        lambda: (_miner(within_margin, check_margin(margin), otherwise), check_choice("distance", distance, DISTANCES)),
    )
    return mined_triplets(batch, miner, code)


def _miner(within_margin: bool, margin: float, otherwise: str) -> Miner:
    code = check_choice("otherwise", otherwise, OTHERWISE)
    return Miner(MINERS.index("semi_hard"), code, check_bool("within_margin", within_margin), margin)
