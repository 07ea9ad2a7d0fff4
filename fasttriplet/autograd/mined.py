"""Distances and losses of mined triplets over their operators, differentiable twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fasttriplet.check import DISTANCES, ON_MISSING, REDUCTIONS
from fasttriplet.engines import miner_uses, operator, uses_of
from fasttriplet.pair_distances import pair_distances
from fasttriplet.pairing import poison_of
from fasttriplet.reduction import Options, losses_of, reduced


def mine(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: tuple[Tensor | None, ...],
    numbers: tuple[int, ...],
    distance: int,
    *miner: int | float,
) -> tuple[Tensor, Tensor]:
    """The operator ``mine_triplets`` of the engine that serves the call; without a graph."""
    batch, uses = (embeddings, labels, ref_embeddings, pairing, numbers), []
    if embeddings.device.type == "cuda":  # else no kernel is particular
        uses = uses_of(labels, ref_embeddings, pairing, numbers) + miner_uses(int(miner[0]))
    distances, triplets = operator("mine_triplets", embeddings.device, uses)(*batch, distance, *miner)
    return distances, triplets


class MinedDistances(torch.autograd.Function):
    """Distances [2, T] of the triplets that a miner chooses, the triplets [3, T], and the batch's poison []."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None,
        pairing: tuple[Tensor | None, ...],
        numbers: tuple[int, ...],
        distance: int,
        *miner: int | float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch = embeddings, labels, ref_embeddings, pairing, numbers
        distances, triplets = mine(*batch, distance, *miner)
        poison = poison_of(*batch)
        ctx.mark_non_differentiable(triplets, poison)
        ctx.save_for_backward(embeddings, ref_embeddings, distances, triplets, poison)
        ctx.distance, ctx.arguments = distance, 6 + len(miner)
        return distances, triplets, poison

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, ref_embeddings, distances, triplets, poison = ctx.saved_tensors
        arguments = grad, embeddings, ref_embeddings, distances, triplets, ctx.distance
        if torch.is_grad_enabled():  # create_graph=True
            gradient, ref_gradient = _MinedDistancesBackward.apply(*arguments)
        else:
            gradient, ref_gradient = operator("_triplet_distances_backward", grad.device)(*arguments, [])
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
        gradients = operator("_triplet_distances_backward", grad.device)(
            grad, embeddings, ref_embeddings, distances, triplets, distance, []
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


class TripletLosses(torch.autograd.Function):
    """The loss of mined triplets; the second derivative goes through :func:`losses_of` and :func:`reduced`."""

    @staticmethod
    def forward(
        ctx: Any,
        distances: Tensor,
        triplets: Tensor,
        poison: Tensor,
        margin: float,
        soft_margin: bool,
        reduction: int,
        on_missing: int,
    ) -> Tensor:
        loss, slopes = operator("triplet_losses", distances.device)(
            distances, triplets, poison, margin, soft_margin, reduction, on_missing
        )
        ctx.save_for_backward(distances, triplets, poison, slopes)
        ctx.options = Options(margin, 0, soft_margin, REDUCTIONS[reduction], ON_MISSING[on_missing])
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        distances, triplets, poison, slopes = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            losses = losses_of(distances, triplets[1:] >= 0, poison, ctx.options)
            loss = reduced(losses, None, poison, ctx.options.reduction)
            (gradient,) = torch.autograd.grad(loss, distances, grad, create_graph=True)
        else:
            gradient = torch.where(slopes == 0, 0, slopes * grad)  # also where the gradient that comes back is infinite
        return gradient, None, None, None, None, None, None
