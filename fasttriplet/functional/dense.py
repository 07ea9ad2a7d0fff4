"""Losses of all pairs: batch-all, and softly weighted distances."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from fasttriplet import transforms
from fasttriplet.arguments import LossArguments, takes
from fasttriplet.autograd import BatchAllSums, WeightedDistances
from fasttriplet.distributed.batch import Together, finished
from fasttriplet.distributed.untransformed import eagerly, wants_eager
from fasttriplet.functional._loss import (
    HARDEST,
    LossResult,
    batch_of,
    checked_options,
    mined_distances,
    refuse_missing,
    with_stats,
)
from fasttriplet.pairing import Batch, poison_of
from fasttriplet.reduction import Losses, Options, losses_of, reduced
from fasttriplet.stats import TripletStats, stats_of
from fasttriplet.trip import away, there_and_back


@with_stats
@takes(LossArguments)
def batch_all_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.3,
    distance: str = "euclidean",
    soft_margin: bool = False,
    reduction: str = "mean_nonzero",
    on_missing: str = "skip",
    **arguments: Unpack[LossArguments],
) -> LossResult:
    """Batch-all triplet loss: every anchor with every positive and every negative.

    The loss of a triplet is ``max(d(a, p) - d(a, n) + margin, 0)``, or ``log(1 + exp(d(a, p) - d(a, n)))`` with
    ``soft_margin``. Which triplets have a loss above zero is decided as float64 arithmetic does; sums over triplets of
    float32 rows are of float32 quality. Neither the triplets nor an [N, N] array are made.

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides.
        labels: [N] of any integer dtype or bool, equal ones make a positive pair; or [N, C] bool, several a row.
        margin: finite number; not used when ``soft_margin`` is true. Default 0.3.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``.
        soft_margin: softplus in place of the hinge.
        reduction: ``"none"`` gives [N], the sum over each anchor's triplets; ``"sum"``; ``"mean"`` over all triplets;
            ``"mean_nonzero"``, the default, over those with a loss above zero, which a softplus that float64 rounds to
            zero is not (``d(a, n) - d(a, p)`` of 745.13 or more). Where nothing counts the result is 0, joined to the
            graph.
        on_missing: ``"skip"`` and ``"zero"``: an anchor without triplets brings 0. ``"error"``: ``ValueError`` where an
            anchor that is not ignored has no triplet.
        **arguments: who pairs with whom, weights and statistics: :class:`fasttriplet.arguments.LossArguments`.

    Returns:
        The loss, float64 where rows or references are float64, else float32: [N] for ``reduction="none"``, otherwise a
        scalar; with ``return_stats=True`` (loss, :class:`fasttriplet.TripletStats`). If any entry of a row that is not
        ignored is NaN or infinite, the losses that count, each reduction and the whole gradient are NaN, and
        ``on_missing="error"`` refuses nothing; where a difference of distances overflows float64, that anchor's loss,
        each reduction and the whole gradient.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value, or with ``on_missing="error"`` an anchor without a complete
            triplet.
        RuntimeError: on the way to a second derivative, which it does not have (``NotImplementedError``).

    Example:
        >>> import torch
        >>> from fasttriplet import batch_all_triplet_loss
        >>> embeddings = torch.tensor([[0.0], [1.0], [3.0], [7.0]], requires_grad=True)
        >>> loss = batch_all_triplet_loss(embeddings, torch.tensor([0, 0, 1, 1]), margin=1.5, reduction="sum")
        >>> loss.item()
        6.5

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737.
    """
    if away(embeddings):
        return there_and_back(batch_all_triplet_loss, locals())
    if wants_eager(arguments):
        return eagerly(batch_all_triplet_loss, locals())
    batch, options = batch_of(
        *("batch_all_triplet_loss", embeddings, labels, arguments, LossArguments),
        lambda: checked_options(margin, distance, soft_margin, reduction, on_missing),
    )
    # One number goes back to all anchors. Where none does, no gradient is made on the way forward.
    uniform = batch.weights is None and reduction != "none" and torch.is_grad_enabled()
    sums, counts, negative_counts, poison = _batch_all_sums(batch, options, uniform)
    active, counted = counts
    if on_missing == "error":
        refuse_missing(batch, counted > 0, poison)
    # Where one number is to go back to all anchors none may be masked: those without triplets have sums of 0.
    values = sums if uniform else torch.where(counted > 0, sums * poison, 0)
    losses = Losses(values, counted, active)
    return _result(batch, losses, poison, options, negative_counts)


def _batch_all_sums(batch: Batch, options: Options, uniform: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums [N], counts [2, N], negative counts and poison of :class:`BatchAllSums`, of all anchors."""
    told = options.distance, options.margin, options.soft_margin
    together: Together | None = batch.together
    if together is not None:
        sums, counts, negative_counts, poison = BatchAllSums.apply(*together.with_graph().arguments, *told, uniform)
        joined = together.joined(sums=sums, counts=counts.T)
        often = negative_counts
        if together.shared and batch.return_stats:
            often = together.group.total(often)
        return joined["sums"], joined["counts"].T, often, together.poison(poison)
    if transforms.active():
        transforms.refuse_compiled("batch_all_triplet_loss")
        return *transforms.BatchAllSums.apply(*batch.arguments, *told), poison_of(*batch.arguments)
    return BatchAllSums.apply(*batch.arguments, *told, uniform)


@with_stats
@takes(LossArguments)
def weighted_triplet_loss(
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
    """Triplet loss of each anchor's softly farthest positive and softly nearest negative.

    ``d_ap`` is the mean of the distances to the anchor's positives, weighted by their softmax, ``d_an`` that of the
    distances to its negatives, weighted by the softmax of their negations; the gradient flows through the weights as
    well. The loss is ``max(d_ap - d_an + margin, 0)``, or ``log(1 + exp(d_ap - d_an))`` with ``soft_margin``. Sums over
    float32 rows are of float32 quality. No [N, N] array is made, but
    the ordered positive pairs are kept. Where a row is not finite every anchor that is not
    ignored counts, and its loss is NaN.

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides.
        labels: [N] of any integer dtype or bool, equal ones make a positive pair; or [N, C] bool, several a row.
        margin: finite number; not used when ``soft_margin`` is true. Default 0.3.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``.
        soft_margin: softplus in place of the hinge.
        reduction: ``"none"`` gives [N]; ``"sum"``; ``"mean"`` over the anchors that count; ``"mean_nonzero"`` over the
            losses above zero. Where nothing counts the result is 0, joined to the graph.
        on_missing: what to do where a triplet lacks a positive or a negative. ``"skip"``: it does not count.
            ``"zero"``: a missing positive is at distance 0 and the triplet counts; without a negative it never does.
            ``"error"``: ``ValueError`` where an anchor that is not ignored has no complete triplet.
        **arguments: who pairs with whom, weights and statistics: :class:`fasttriplet.arguments.LossArguments`.

    Returns:
        The loss, float64 where rows or references are float64, else float32: [N] for ``reduction="none"``, otherwise a
        scalar; with ``return_stats=True`` (loss, :class:`fasttriplet.TripletStats`). If any entry of a row that is not
        ignored is NaN or infinite, the losses that count, each reduction and the whole gradient are NaN, and
        ``on_missing="error"`` refuses nothing; where a difference of distances overflows float64, that anchor's loss,
        each reduction and the whole gradient.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value, or with ``on_missing="error"`` an anchor without a complete
            triplet.
        RuntimeError: on the way to a second derivative, which it does not have (``NotImplementedError``).

    Example:
        >>> import torch
        >>> from fasttriplet import weighted_triplet_loss
        >>> embeddings = torch.tensor([[0.0], [1.0], [3.0], [7.0]], requires_grad=True)
        >>> loss = weighted_triplet_loss(embeddings, torch.tensor([0, 0, 1, 1]), soft_margin=True)
        >>> round(loss.item(), 4)
        0.6014

    Source: E. Ristani, C. Tomasi, "Features for Multi-Target Multi-Camera Tracking and Re-Identification", 2018,
    https://arxiv.org/abs/1803.10859.
    """
    if away(embeddings):
        return there_and_back(weighted_triplet_loss, locals())
    if wants_eager(arguments):
        return eagerly(weighted_triplet_loss, locals())
    batch, options = batch_of(
        *("weighted_triplet_loss", embeddings, labels, arguments, LossArguments),
        lambda: checked_options(margin, distance, soft_margin, reduction, on_missing),
    )
    distances, poison = _weighted_distances(batch, options.distance)
    found = ~distances.detach().isnan()
    takes_part = batch.takes_part()
    unknown = poison.isnan().expand(found.shape)  # all distances are NaN then: every anchor counts, and its loss is NaN
    found = found | (unknown if takes_part is None else unknown & takes_part)
    if on_missing == "error":
        refuse_missing(batch, found.all(0), poison)
    return _result(batch, losses_of(distances, found, poison, options), poison, options, None)


def _weighted_distances(batch: Batch, distance: int) -> tuple[Tensor, Tensor]:
    """Distances [2, N] and poison of :class:`WeightedDistances`, of all anchors."""
    together: Together | None = batch.together
    if together is not None:
        distances, poison = WeightedDistances.apply(*together.with_graph().arguments, distance)
        return together.joined(distances=distances.T)["distances"].T, together.poison(poison)
    if transforms.active():
        transforms.refuse_compiled("weighted_triplet_loss")
        return transforms.WeightedDistances.apply(*batch.arguments, distance)[:2], poison_of(*batch.arguments)
    return WeightedDistances.apply(*batch.arguments, distance)


def _result(
    batch: Batch,
    losses: Losses,
    poison: Tensor,
    options: Options,
    negative_counts: Tensor | None,
) -> LossResult:
    of_anchors = None if batch.weights is None else batch.weights.double()
    loss = finished(batch, reduced(losses, of_anchors, poison, options.reduction))
    if not batch.return_stats:
        return loss
    return loss, _stats(batch, losses, poison, options.distance, negative_counts)


@torch.no_grad()
def _stats(batch: Batch, losses: Losses, poison: Tensor, distance: int, negative_counts: Tensor | None) -> TripletStats:
    """No pair is chosen: the farthest positives and nearest negatives are mined for the statistics."""
    mined = mined_distances(batch, HARDEST, distance)
    return stats_of(batch, mined._replace(poison=poison), losses.counted, losses.active, distance, negative_counts)
