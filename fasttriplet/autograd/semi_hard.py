"""Semi-hard losses by anchor over their operators, differentiable twice.

Nothing of a positive pair is kept: the gradient is made on the way forward or by mining again. What a second derivative
needs is mined again as well, pair by pair.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fasttriplet.autograd.mined import MinedDistances
from fasttriplet.check import MINERS
from fasttriplet.engines import operator
from fasttriplet.pairing import poison_of
from fasttriplet.reduction import Options, losses_of


class SemiHardSums(torch.autograd.Function):
    """Sums [N] of the losses of every anchor's positive pairs, counts [2, N] of those above zero and of all that have a
    negative, and the batch's poison [].

    ``uniform``: the gradient that comes back is one number for all anchors, so that the gradient of the sums' sum,
    divided by the number of pairs as a mean is, is made on the way forward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None,
        pairing: tuple[Tensor | None, ...],
        numbers: tuple[int, ...],
        distance: int,
        otherwise: int,
        within_margin: bool,
        margin: float,
        soft_margin: bool,
        uniform: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch = embeddings, labels, ref_embeddings, pairing, numbers
        ctx.uniform = uniform and (ctx.needs_input_grad[0] or ctx.needs_input_grad[2])
        ctx.numbers, ctx.options = numbers, (distance, otherwise, within_margin, margin, soft_margin)
        sums, counts, *gradients = operator("semi_hard", embeddings.device)(*batch, *ctx.options, ctx.uniform)
        poison = poison_of(*batch)
        ctx.mark_non_differentiable(counts, poison)
        kept = (counts[1].sum(), *gradients) if ctx.uniform else ()
        ctx.kept = len(kept)
        ctx.save_for_backward(embeddings, labels, ref_embeddings, poison, *kept, *pairing)
        return sums, counts, poison

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, labels, ref_embeddings, poison, *rest = ctx.saved_tensors
        batch = embeddings, labels, ref_embeddings, tuple(rest[ctx.kept :]), ctx.numbers
        if torch.is_grad_enabled():  # create_graph=True
            gradients = _with_graph(grad, batch, ctx.options, ctx.needs_input_grad[:3:2])
            return gradients[0], None, gradients[1], *[None] * 8
        factor = poison
        if ctx.uniform:
            pairs, *gradients = rest[: ctx.kept]
            factor = factor * (grad[:1].sum() * pairs)  # the same number everywhere; 0 in an empty batch
        else:
            gradients = operator("_semi_hard_backward", grad.device)(grad, *batch, *ctx.options)
        # What no pair pulls is not moved by an infinite gradient either, but NaN where the batch is not finite.
        own, references = (torch.where(each == 0, 0 * poison, each * factor).to(each.dtype) for each in gradients)
        return own, None, None if ref_embeddings is None else references, *[None] * 8


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
