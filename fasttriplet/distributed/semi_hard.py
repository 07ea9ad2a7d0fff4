"""The semi-hard loss of all ranks: every rank has all mined pairs, 28 bytes each, and the gradient of its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fasttriplet.autograd.semi_hard import multiple_of, scaled, size_of
from fasttriplet.distributed.autograd import refuse_second_derivative, wanted_parts
from fasttriplet.distributed.batch import Together
from fasttriplet.distributed.mining import mined_by_all
from fasttriplet.engines import operator
from fasttriplet.pairing import Batch, Miner
from fasttriplet.reduction import Options


def semi_hard_sums_of_all(
    batch: Batch, weights: Tensor | None, miner: Miner, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums [N], counts [2, N] and poison of :class:`fasttriplet.autograd.SemiHardSums` of all anchors of ``batch``."""
    together: Together | None = batch.together
    assert together is not None
    with torch.no_grad():
        distances, triplets, poison, _ = mined_by_all(batch, miner, options.distance)
    multiple = torch.is_grad_enabled() and not (weights is not None and weights.requires_grad)
    sums, counts = SemiHardSumsOfAll.apply(
        together.own.embeddings,
        together.own_references,
        batch.arguments,
        None if weights is None else weights.detach(),
        poison,
        (options.distance, distances, triplets, options.margin, options.soft_margin),
        together.parts,
        multiple,
    )
    return sums, counts, poison


class SemiHardSumsOfAll(torch.autograd.Function):
    """Sums and counts as of this rank's rows and references: those of :class:`fasttriplet.autograd.SemiHardSums`, and
    to the same bits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        own: Tensor,
        own_references: Tensor | None,
        arguments: Sequence[Any],
        weights: Tensor | None,
        poison: Tensor,
        told: Sequence[Any],
        parts: Sequence[int],
        multiple: bool,
    ) -> tuple[Tensor, Tensor]:
        wanted = multiple and any(ctx.needs_input_grad[:2])
        ctx.parts = parts
        shares = weights / size_of(weights) if wanted and weights is not None else None
        sums, counts, *gradients = operator("semi_hard_of_triplets", own.device)(
            *arguments, *told, wanted_parts(ctx), wanted, shares
        )
        ctx.mark_non_differentiable(counts)
        # Tensors where autograd keeps them and lets go of them, the rest beside: none of them has a graph.
        embeddings, labels, references, pairing, ctx.numbers = arguments
        ctx.distance, distances, triplets, *ctx.options = told
        kept = (shares, counts.select(0, 1).sum(), *gradients) if wanted else ()
        ctx.kept = len(kept)
        ctx.save_for_backward(embeddings, labels, references, distances, triplets, poison, *kept, *pairing)
        return sums, counts

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        embeddings, labels, all_references, distances, triplets, poison, *rest = ctx.saved_tensors
        if ctx.kept:
            shares, pairs, *gradients = rest[: ctx.kept]
            size = multiple_of(grad, shares)
        else:
            size = size_of(grad)
            batch = embeddings, labels, all_references, rest[ctx.kept :], ctx.numbers, ctx.distance
            again = operator("semi_hard_of_triplets", grad.device)
            _, counts, *gradients = again(
                *batch, distances, triplets, *ctx.options, wanted_parts(ctx), True, grad / size
            )
            pairs = counts.select(0, 1).sum()
        own, references = scaled(gradients, poison, poison * pairs * size)
        return own, references if ctx.needs_input_grad[1] else None, *[None] * 6
