"""Semi-hard losses by anchor over their operator, differentiable twice.

Nothing of a positive pair is kept: the gradient is made on the way forward. What a second derivative needs is mined
again, pair by pair.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fasttriplet.autograd.dense import saved
from fasttriplet.autograd.mined import MinedDistances
from fasttriplet.check import MINERS
from fasttriplet.engines import operator
from fasttriplet.pairing import poison_of
from fasttriplet.reduction import Options, losses_of


class SemiHardSums(torch.autograd.Function):
    """Sums [N] of the losses of every anchor's positive pairs, counts [2, N] of those above zero and of all that have a
    negative, and the batch's poison [].

    The gradient that comes back must be a multiple of ``weights`` [N] float64, or of ones, as that of any reduction is:
    so the gradient of the embeddings, but for that factor, is made on the way forward. It is where a graph is
    ``recorded``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None,
        pairing: tuple[Tensor | None, ...],
        numbers: tuple[int, ...],
        weights: Tensor | None,
        distance: int,
        otherwise: int,
        within_margin: bool,
        margin: float,
        soft_margin: bool,
        recorded: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch = embeddings, labels, ref_embeddings, pairing, numbers
        wanted = recorded and (ctx.needs_input_grad[0] or ctx.needs_input_grad[2])
        ctx.numbers, ctx.options = numbers, (distance, otherwise, within_margin, margin, soft_margin)
        sums, counts, *gradients = operator("semi_hard", embeddings.device)(*batch, *ctx.options, wanted, weights)
        poison = poison_of(*batch)
        ctx.mark_non_differentiable(counts, poison)
        ctx.kept = 4
        ctx.save_for_backward(
            embeddings, labels, ref_embeddings, poison, weights, counts[1].sum(), *gradients, *pairing
        )
        return sums, counts, poison

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        batch, poison, (weights, pairs, *gradients) = saved(ctx)
        if torch.is_grad_enabled():  # create_graph=True
            own, references = _with_graph(grad, batch, ctx.options, ctx.needs_input_grad[:3:2])
        else:
            factor = poison * pairs * _multiple(grad, weights)
            # What no pair pulls is not moved by an infinite gradient either, but NaN where the batch is not finite.
            own, references = (torch.where(each == 0, 0 * poison, each * factor).to(each.dtype) for each in gradients)
        return own, None, None if batch[2] is None else references, *[None] * 9


def _multiple(grad: Tensor, weights: Tensor | None) -> Tensor:
    """[]: of the weights, what ``grad`` is; 0 of none, or of weights that are all 0."""
    if weights is None:
        return grad[:1].sum()
    if len(weights) == 0:
        return weights.sum()
    largest = weights.abs().argmax()  # a NaN before all
    return torch.where(weights[largest] == 0, 0, grad[largest] / weights[largest])


def _with_graph(
    grad: Tensor, batch: tuple[Any, ...], options: tuple[Any, ...], wanted: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients of embeddings and references with a graph of their own."""
    distance, otherwise, within_margin, margin, soft_margin = options
    miner = MINERS.index("semi_hard"), otherwise, within_margin, margin, 1, False, 0.0
    distances, triplets, poison = MinedDistances.apply(*batch, distance, *miner)
    told = Options(margin, distance, soft_margin, "none", "skip")
    losses = losses_of(distances, triplets[1:] >= 0, poison, told).values
    sums = losses.new_zeros(len(grad)).index_add(0, triplets[0], losses)
    rows = [tensor for tensor, is_wanted in zip(batch[:3:2], wanted, strict=True) if is_wanted]
    found = iter(torch.autograd.grad(sums, rows, grad, create_graph=True))
    return [next(found) if is_wanted else None for is_wanted in wanted]
