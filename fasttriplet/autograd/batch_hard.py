"""The loss of batch-hard over its operators, differentiable twice.

The forward operator returns, beside the loss, what its backward needs: the slope of every anchor, and the mined pairs
with their distances. The backward is a Function of its own, so that it can be differentiated again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fasttriplet.check import DISTANCES
from fasttriplet.engines import operator
from fasttriplet.pair_distances import pair_distances


class BatchHardLoss(torch.autograd.Function):
    """The loss; arguments as codes, see :mod:`fasttriplet.check`."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        labels: Tensor,
        margin: float,
        distance: int,
        soft_margin: bool,
        reduction: int,
        on_missing: int,
    ) -> Tensor:
        # Not setup_context: binding its arguments costs 20 us a call, as much as all the rest at small N.
        loss, values, pairs = operator("batch_hard_loss", embeddings.device)(
            embeddings, labels, margin, distance, soft_margin, reduction, on_missing
        )
        ctx.save_for_backward(embeddings, values, pairs)
        ctx.distance, ctx.soft_margin = distance, soft_margin
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            gradient = _BatchHardLossBackward.apply(grad_loss, *ctx.saved_tensors, ctx.distance, ctx.soft_margin)
        else:  # 15 us less a call
            backward = operator("_batch_hard_loss_backward", grad_loss.device)
            gradient = backward(grad_loss, *ctx.saved_tensors, ctx.distance)
        return gradient, None, None, None, None, None, None


class _BatchHardLossBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        grad_loss: Tensor,
        embeddings: Tensor,
        values: Tensor,
        pairs: Tensor,
        distance: int,
        soft_margin: bool,
    ) -> Tensor:
        ctx.save_for_backward(grad_loss, embeddings, values, pairs)
        ctx.distance, ctx.soft_margin = distance, soft_margin
        backward = operator("_batch_hard_loss_backward", grad_loss.device)
        return backward(grad_loss, embeddings, values, pairs, distance)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        grad_loss, embeddings, values, pairs = ctx.saved_tensors
        with torch.enable_grad():
            upstream = grad_loss.detach().requires_grad_()
            rows = embeddings.detach().requires_grad_()
            gradient = _gradient_by_autograd(
                upstream, rows, values[0], pairs[0], pairs[1], DISTANCES[ctx.distance], ctx.soft_margin
            )
        second = torch.autograd.grad(gradient, (upstream, rows), cotangent, allow_unused=True)
        return *second, None, None, None, None


def _gradient_by_autograd(
    upstream: Tensor,
    rows: Tensor,
    slopes: Tensor,
    positives: Tensor,
    negatives: Tensor,
    distance: str,
    soft_margin: bool,
) -> Tensor:
    """The gradient of the loss as a graph over ``upstream`` and ``rows``, from the 2N mined pairs in plain PyTorch."""
    anchors = torch.arange(len(rows), device=rows.device)
    has_positive, has_negative = positives >= 0, negatives >= 0
    ap = pair_distances(rows, rows[torch.where(has_positive, positives, anchors)], distance)
    an = pair_distances(rows, rows[torch.where(has_negative, negatives, anchors)], distance)
    difference = torch.where(has_positive, ap, 0) - torch.where(has_negative, an, 0)
    weights = slopes.to(rows.dtype)
    if soft_margin:  # the hinge's slope is constant; the softplus' slope is a sigmoid of the difference
        log_slope = torch.nn.functional.logsigmoid(difference)
        weights = weights * (log_slope - log_slope.detach()).exp()
    (gradient,) = torch.autograd.grad(difference, rows, weights * upstream, create_graph=True)
    return gradient
