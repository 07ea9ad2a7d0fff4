"""``torch.autograd.Function`` over the operators of batch-hard and of mined triplets; both differentiable twice.

The forward operators return, beside the loss or the distances, what their backward needs: the slope of every anchor,
and the mined pairs with their distances. The backward is a Function of its own, so that it can be differentiated again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fasttriplet.check import DISTANCES
from fasttriplet.pair_distances import pair_distances
from fasttriplet.pairing import poison_of


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
        loss, values, pairs = torch.ops.fasttriplet.batch_hard_loss(
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
            gradient = torch.ops.fasttriplet._batch_hard_loss_backward(grad_loss, *ctx.saved_tensors, ctx.distance)
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
        return torch.ops.fasttriplet._batch_hard_loss_backward(grad_loss, embeddings, values, pairs, distance)

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


class MinedDistances(torch.autograd.Function):
    """Distances [2, T] of the triplets that a miner chooses, the triplets [3, T], and the batch's poison []."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None,
        ref_labels: Tensor | None,
        self_indices: Tensor | None,
        groups: Tensor | None,
        ref_groups: Tensor | None,
        ignore_index: int | None,
        distance: int,
        *miner: int | float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        pairing = ref_embeddings, ref_labels, self_indices, groups, ref_groups, ignore_index
        distances, triplets = torch.ops.fasttriplet.mine_triplets(embeddings, labels, *pairing, distance, *miner)
        poison = poison_of(embeddings, labels, ref_embeddings, ref_labels, ignore_index)
        ctx.mark_non_differentiable(triplets, poison)
        ctx.save_for_backward(embeddings, ref_embeddings, distances, triplets, poison)
        ctx.distance, ctx.arguments = distance, 9 + len(miner)
        return distances, triplets, poison

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, ref_embeddings, distances, triplets, poison = ctx.saved_tensors
        arguments = grad, embeddings, ref_embeddings, distances, triplets, ctx.distance
        if torch.is_grad_enabled():  # create_graph=True
            gradient, ref_gradient = _MinedDistancesBackward.apply(*arguments)
        else:
            gradient, ref_gradient = torch.ops.fasttriplet._triplet_distances_backward(*arguments)
        # Where one row is not finite the whole gradient is NaN, also where nothing was chosen.
        ref_gradient = None if ref_embeddings is None else ref_gradient * poison
        return gradient * poison, None, ref_gradient, *[None] * (ctx.arguments - 3)


class _MinedDistancesBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        embeddings: Tensor,
        ref_embeddings: Tensor | None,
        distances: Tensor,
        triplets: Tensor,
        distance: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(grad, embeddings, ref_embeddings, triplets)
        ctx.distance = distance
        gradients = torch.ops.fasttriplet._triplet_distances_backward(
            grad, embeddings, ref_embeddings, distances, triplets, distance
        )
        return gradients[0], gradients[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        grad, embeddings, ref_embeddings, (anchors, positives, negatives) = ctx.saved_tensors
        with torch.enable_grad():
            upstream = grad.detach().requires_grad_()
            rows = [embeddings.detach().requires_grad_()]
            if ref_embeddings is not None:
                rows.append(ref_embeddings.detach().requires_grad_())
            candidates = torch.cat([positives, negatives])
            exists = candidates >= 0
            first, second = torch.cat([anchors, anchors])[exists], candidates[exists]
            to = pair_distances(rows[0][first], rows[-1][second], DISTANCES[ctx.distance])
            gradients = torch.autograd.grad(to, rows, upstream.flatten()[exists].to(to.dtype), create_graph=True)
        result = torch.autograd.grad(gradients, (upstream, *rows), cotangents[: len(rows)], allow_unused=True)
        return (*result, *[None] * (6 - len(result)))
