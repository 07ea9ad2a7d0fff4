"""The loss of explicit triplets over its operators, differentiable twice.

Forward and backward are one operator each; what is kept between them is [3 to 7, T] float64 and the inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fasttriplet.check import DISTANCES
from fasttriplet.engines import operator
from fasttriplet.pair_distances import pair_distances


class TripletMargin(torch.autograd.Function):
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
        # No setup_context, for speed: see fasttriplet.autograd.batch_hard.
        loss, values = operator("triplet_margin_loss", anchor.device)(
            anchor, positive, negative, weights, margin, distance, swap, soft_margin, mining_margin, reduction
        )
        ctx.save_for_backward(anchor, positive, negative, values)
        ctx.options = distance, swap, soft_margin
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # create_graph=True
            gradients = _TripletMarginBackward.apply(grad_loss, *ctx.saved_tensors, *ctx.options, wanted)
        else:
            distance, swap, _ = ctx.options
            anchor, positive, negative, values = ctx.saved_tensors
            gradients = _gradients(grad_loss, anchor, positive, negative, values, distance, swap, wanted)
        return *gradients, None, None, None, None, None, None, None


class _TripletMarginBackward(torch.autograd.Function):
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
    of_anchor, of_positive, of_negative = operator("_triplet_margin_loss_backward", anchor.device)(
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
