"""The loss of explicit triplets."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fasttriplet import transforms
from fasttriplet.autograd import TripletMargin
from fasttriplet.check import (
    DISTANCES,
    GRADIENT_SCALES,
    REDUCTIONS,
    check_bool,
    check_choice,
    check_margin,
    check_triplets,
)
from fasttriplet.distributed.triplet_margin import triplet_margin_of_all
from fasttriplet.distributed.untransformed import eagerly, wants_eager
from fasttriplet.pairing import HALF_DTYPES, widened
from fasttriplet.trip import away, there_and_back


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float = 1.0,
    distance: str = "euclidean",
    swap: bool = False,
    soft_margin: bool = False,
    mining_margin: float | None = None,
    reduction: str = "mean",
    weights: Tensor | None = None,
    process_group: Any = None,
    gradient_scale: str = "mean",
) -> Tensor:
    """Triplet margin loss of explicit triplets: row i of ``anchor``, ``positive`` and ``negative`` is triplet i.

    The loss of a triplet is ``max(d(a, p) - d(a, n) + margin, 0)``, or ``log(1 + exp(d(a, p) - d(a, n)))`` with
    ``soft_margin``. Distances are those of float64, whatever the dtype. Where
    ``torch.nn.functional.triplet_margin_loss`` adds 1e-6 to every entry of a difference, nothing is added here.

    Args:
        anchor: [T, D] float64, float32, float16 or bfloat16, any strides.
        positive: [T, D] of the same dtype and device.
        negative: [T, D] of the same dtype and device.
        margin: finite number; not used when ``soft_margin`` is true. Default 1.0.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` (1 - cos, rows are normalised inside, the
            cosine of a zero row is 0, and of float64 rows shorter than its smallest normal number, 2.2e-308) or
            ``"inner_product"`` (-x.y).
        swap: the negative is at distance ``min(d(a, n), d(p, n))``; where they are equal the gradient is that of
            d(a, n).
        soft_margin: softplus in place of the hinge; stable for any difference.
        mining_margin: only triplets with ``d(a, p) > d(a, n) - mining_margin`` count. None, the default: all do.
        reduction: ``"none"`` gives [T], 0 where a triplet does not count; ``"sum"``; ``"mean"`` over the triplets that
            count; ``"mean_nonzero"`` over those of them with a loss above zero. Where nothing counts the result is 0,
            joined to the graph.
        weights: [T] of a floating dtype: multiplies the loss of each triplet, and the means divide by the sum of the
            weights of what they run over; 0 where that sum is 0. Negative ones are taken as they are; with one that is
            NaN every reduction is NaN, with an infinite one no reduction is finite, even where its triplet does not
            count. They must not require grad: unlike those of the batch losses they get none. None, the default: all 1.
        process_group: as in :func:`batch_hard_triplet_loss`: the triplets are those of all ranks, any number each, and
            a reduction is over all of them. Their rows stay where they are. None, the default: no communication.
        gradient_scale: ``"mean"`` or ``"sum"``, as in :func:`batch_hard_triplet_loss`. Default ``"mean"``.

    Returns:
        The loss, float64 for float64 inputs, else float32 (also for half precision and under autocast): [T] for
        ``reduction="none"``, otherwise a scalar. The gradients have the dtype and the shape of the inputs; a pair at
        distance 0 brings them nothing, but by inner product. A triplet with a NaN or infinite entry, or whose
        difference of distances overflows float64, counts, and its loss and its rows of the gradients are NaN; others
        are touched by the reduction only.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value, or weights that require grad.

    Example:
        >>> import torch
        >>> from fasttriplet import triplet_margin_loss
        >>> anchor = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
        >>> positive, negative = torch.tensor([[3.0, 4.0], [3.0, 4.0]]), torch.tensor([[0.0, 2.0], [9.0, 9.0]])
        >>> loss = triplet_margin_loss(anchor, positive, negative, reduction="none")
        >>> loss.tolist()
        [4.0, 0.0]
        >>> loss.sum().backward()
        >>> torch.allclose(anchor.grad, torch.tensor([[-0.6, 0.2], [0.0, 0.0]]))
        True

    Source: V. Balntas, E. Riba, D. Ponsa, K. Mikolajczyk, "Learning local feature descriptors with triplets and shallow
    convolutional neural networks", 2016, https://bmva-archive.org.uk/bmvc/2016/papers/paper119/index.html.
    """
    if away(anchor):
        return there_and_back(triplet_margin_loss, locals())
    if wants_eager({"process_group": process_group}):
        return eagerly(triplet_margin_loss, locals())

    def checked() -> tuple[tuple[Tensor, Tensor, Tensor, Tensor | None], tuple[Any, ...]]:
        check_triplets(anchor, positive, negative, weights)
        check_choice("gradient_scale", gradient_scale, GRADIENT_SCALES)
        rows = anchor, positive, negative
        if (
            anchor.dtype in HALF_DTYPES and anchor.dtype == positive.dtype == negative.dtype
        ):  # else the operator refuses
            rows = widened(anchor), widened(positive), widened(negative)
        return (*rows, weights), (
            check_margin(margin),
            check_choice("distance", distance, DISTANCES),
            check_bool("swap", swap),
            check_bool("soft_margin", soft_margin),
            None if mining_margin is None else check_margin(mining_margin, "mining_margin"),
            check_choice("reduction", reduction, REDUCTIONS),
        )

    if process_group is not None:
        return triplet_margin_of_all(process_group, gradient_scale, checked)
    tensors, options = checked()
    loss = transforms.triplet_margin if transforms.active() else TripletMargin.apply
    return loss(*tensors, *options)
