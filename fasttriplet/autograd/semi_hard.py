"""Semi-hard losses by anchor over their operator, differentiable twice.

Nothing of a positive pair is kept: the gradient is made on the way forward, or by mining again. What a second
derivative needs is mined again, pair by pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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

    Where the gradient that comes back will be a ``multiple`` of ``weights`` [N] float64, or of ones, the gradient of
    the embeddings, but for that factor, is made on the way forward. Else the way back mines again.
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
        multiple: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch = embeddings, labels, ref_embeddings, pairing, numbers
        wanted = multiple and (ctx.needs_input_grad[0] or ctx.needs_input_grad[2])
        ctx.numbers, ctx.options = numbers, (distance, otherwise, within_margin, margin, soft_margin)
        shares = weights / size_of(weights) if wanted and weights is not None else None
        sums, counts, *gradients = operator("semi_hard", embeddings.device)(*batch, *ctx.options, wanted, shares)
        poison = poison_of(*batch)
        ctx.mark_non_differentiable(counts, poison)
        kept = (shares, counts.select(0, 1).sum(), *gradients) if wanted else ()
        ctx.kept = len(kept)
        ctx.save_for_backward(embeddings, labels, ref_embeddings, poison, *kept, *pairing)
        return sums, counts, poison

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        batch, poison, kept = saved(ctx)
        if torch.is_grad_enabled():  # create_graph=True
            own, references = _with_graph(grad, batch, ctx.options, ctx.needs_input_grad[:3:2])
            return own, None, references, *[None] * 9
        if kept:
            shares, pairs, *gradients = kept
            size = multiple_of(grad, shares)
        else:
            size = size_of(grad)
            _, counts, *gradients = operator("semi_hard", grad.device)(*batch, *ctx.options, True, grad / size)
            pairs = counts.select(0, 1).sum()
        own, references = scaled(gradients, poison, poison * pairs * size)
        return own, None, None if batch[2] is None else references, *[None] * 9


def scaled(gradients: Iterable[Tensor], poison: Tensor, factor: Tensor) -> Iterator[Tensor]:
    """Times ``factor`` [] float64."""
    # What no pair pulls is not moved by an infinite gradient either, but NaN where the batch is not finite.
    return (torch.where(each == 0, 0 * poison, each * factor).to(each.dtype) for each in gradients)


def size_of(values: Tensor) -> Tensor:
    """[]: the largest that is finite, or 1; gradients of what is divided by it are of usual size."""
    if len(values) == 0:
        return values.new_ones(())
    largest = _finite(values).amax()
    return torch.where(largest > 0, largest, 1)


def _finite(values: Tensor) -> Tensor:
    return torch.where(values.isfinite(), values.abs(), 0)


def multiple_of(grad: Tensor, shares: Tensor | None) -> Tensor:
    """[]: of the shares, what ``grad`` is; 0 of none, or of shares that are all 0."""
    if shares is None:
        return grad[:1].sum()
    if len(shares) == 0:
        return shares.sum()
    at = _finite(shares).argmax(dim=0, keepdim=True)
    largest = shares.gather(0, at).sum()
    return torch.where(largest == 0, 0, grad.gather(0, at).sum() / largest)


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
