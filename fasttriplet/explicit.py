"""The loss of explicit triplets: function, module, ``torch.autograd.Function`` and fake (meta) kernels.

Forward and backward are one operator each; what is kept between them is [3 to 7, T] float64 and the inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fasttriplet.check import DISTANCES, REDUCTIONS, check_bool, check_choice, check_margin, check_triplets
from fasttriplet.pair_distances import pair_distances
from fasttriplet.pairing import HALF_DTYPES as _HALF_DTYPES
from fasttriplet.pairing import widened as _widened


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
) -> Tensor:
    """Triplet margin loss of explicit triplets: row i of ``anchor``, ``positive`` and ``negative`` is triplet i.

    The loss of a triplet is ``max(d(a, p) - d(a, n) + margin, 0)``, or ``log(1 + exp(d(a, p) - d(a, n)))`` with
    ``soft_margin``. Distances are those of float64, whatever the dtype. Where
    ``torch.nn.functional.triplet_margin_loss`` adds 1e-6 to every entry of a difference, nothing is added here.

    Args:
        anchor: [T, D] float64, float32, float16 or bfloat16, any strides, on the CPU.
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
    check_triplets(anchor, positive, negative, weights)
    if anchor.dtype in _HALF_DTYPES and anchor.dtype == positive.dtype == negative.dtype:  # else the operator refuses
        anchor, positive, negative = _widened(anchor), _widened(positive), _widened(negative)
    return _TripletMarginLoss.apply(
        anchor,
        positive,
        negative,
        weights,
        check_margin(margin),
        check_choice("distance", distance, DISTANCES),
        check_bool("swap", swap),
        check_bool("soft_margin", soft_margin),
        None if mining_margin is None else check_margin(mining_margin, "mining_margin"),
        check_choice("reduction", reduction, REDUCTIONS),
    )


class TripletMarginLoss(nn.Module):
    """:func:`fasttriplet.triplet_margin_loss` as a module, in place of ``torch.nn.TripletMarginLoss``.

    Args: as in :func:`fasttriplet.triplet_margin_loss`; they are checked here, at construction.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet import TripletMarginLoss
        >>> loss = TripletMarginLoss(margin=0.2, swap=True)
        >>> loss
        TripletMarginLoss(margin=0.2, distance='euclidean', swap=True, soft_margin=False, mining_margin=None, \
reduction='mean')
        >>> loss(torch.randn(8, 16), torch.randn(8, 16), torch.randn(8, 16)).shape
        torch.Size([])
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        distance: str = "euclidean",
        swap: bool = False,
        soft_margin: bool = False,
        mining_margin: float | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_choice("distance", distance, DISTANCES)
        check_choice("reduction", reduction, REDUCTIONS)
        self.margin = check_margin(margin)
        self.distance = distance
        self.swap = check_bool("swap", swap)
        self.soft_margin = check_bool("soft_margin", soft_margin)
        self.mining_margin = None if mining_margin is None else check_margin(mining_margin, "mining_margin")
        self.reduction = reduction

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor, *, weights: Tensor | None = None) -> Tensor:
        """The loss of the triplets, [T, D] each, ``weights`` [T]; see :func:`fasttriplet.triplet_margin_loss`."""
        return triplet_margin_loss(
            anchor,
            positive,
            negative,
            margin=self.margin,
            distance=self.distance,
            swap=self.swap,
            soft_margin=self.soft_margin,
            mining_margin=self.mining_margin,
            reduction=self.reduction,
            weights=weights,
        )

    def extra_repr(self) -> str:
        return (
            f"margin={self.margin}, distance={self.distance!r}, swap={self.swap}, soft_margin={self.soft_margin}, "
            f"mining_margin={self.mining_margin}, reduction={self.reduction!r}"
        )


class _TripletMarginLoss(torch.autograd.Function):
    """Arguments as codes, see :mod:`fasttriplet.check`."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        weights: Tensor | None,
        margin: float,
        distance: int,
        swap: bool,
        soft_margin: bool,
        mining_margin: float | None,
        reduction: int,
    ) -> Tensor:
        # No setup_context, for speed: see fasttriplet.autograd.
        loss, values = torch.ops.fasttriplet.triplet_margin_loss.default(
            anchor, positive, negative, weights, margin, distance, swap, soft_margin, mining_margin, reduction
        )
        ctx.save_for_backward(anchor, positive, negative, values)
        ctx.options = distance, swap, soft_margin
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # create_graph=True
            gradients = _TripletMarginLossBackward.apply(grad_loss, *ctx.saved_tensors, *ctx.options, wanted)
        else:
            distance, swap, _ = ctx.options
            anchor, positive, negative, values = ctx.saved_tensors
            gradients = _gradients(grad_loss, anchor, positive, negative, values, distance, swap, wanted)
        return *gradients, None, None, None, None, None, None, None


class _TripletMarginLossBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        grad_loss: Tensor,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        values: Tensor,
        distance: int,
        swap: bool,
        soft_margin: bool,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(grad_loss, anchor, positive, negative, values)
        ctx.options = distance, swap, soft_margin, wanted
        return _gradients(grad_loss, anchor, positive, negative, values, distance, swap, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, values = ctx.saved_tensors
        wanted = ctx.options[3]
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in inputs]
            gradients = _gradients_by_autograd(leaves, values, *ctx.options)
        given = [cotangent for cotangent, is_wanted in zip(cotangents, wanted, strict=True) if is_wanted]
        second = torch.autograd.grad(gradients, leaves, given, allow_unused=True)
        return *second, None, None, None, None, None


def _gradients(
    grad_loss: Tensor,
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    values: Tensor,
    distance: int,
    swap: bool,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """Of anchor, positive and negative; None where it is not wanted."""
    of_anchor, of_positive, of_negative = torch.ops.fasttriplet._triplet_margin_loss_backward.default(
        grad_loss, anchor, positive, negative, values, distance, swap, *wanted
    )
    return (
        of_anchor if wanted[0] else None,
        of_positive if wanted[1] else None,
        of_negative if wanted[2] else None,
    )


def _gradients_by_autograd(
    leaves: list[Tensor], values: Tensor, distance: int, swap: bool, soft_margin: bool, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, ...]:
    """The wanted gradients as a graph over ``leaves``, the gradient of the loss and the rows, in plain PyTorch."""
    upstream, *inputs = leaves
    anchor, positive, negative = inputs
    name = DISTANCES[distance]
    to_negative = pair_distances(anchor, negative, name)
    if swap:
        to_negative = torch.where(values[3] != 0, pair_distances(positive, negative, name), to_negative)
    difference = pair_distances(anchor, positive, name) - to_negative
    slopes = values[0].to(anchor.dtype)
    if soft_margin:  # the hinge's slope is constant; the softplus' slope is a sigmoid of the difference
        log_slope = torch.nn.functional.logsigmoid(difference)
        slopes = slopes * (log_slope - log_slope.detach()).exp()
    targets = [row for row, is_wanted in zip(inputs, wanted, strict=True) if is_wanted]
    return torch.autograd.grad(difference, targets, slopes * upstream, create_graph=True)


@torch.library.register_fake("fasttriplet::triplet_margin_loss")
def _(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    weights: Tensor | None,
    margin: float,
    distance: int,
    swap: bool,
    soft_margin: bool,
    mining_margin: float | None,
    reduction: int,
) -> tuple[Tensor, Tensor]:
    t = anchor.shape[0]
    loss = anchor.new_empty((t,) if REDUCTIONS[reduction] == "none" else ())
    kept = 3 + int(swap) + (3 if DISTANCES[distance] == "cosine" else 0)
    return loss, anchor.new_empty((kept, t), dtype=torch.float64)


@torch.library.register_fake("fasttriplet::_triplet_margin_loss_backward")
def _(
    grad_loss: Tensor,
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    values: Tensor,
    distance: int,
    swap: bool,
    wants_anchor: bool,
    wants_positive: bool,
    wants_negative: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    def gradient(wanted: bool) -> Tensor:
        return anchor.new_empty(anchor.shape if wanted else (0,))

    return gradient(wants_anchor), gradient(wants_positive), gradient(wants_negative)
