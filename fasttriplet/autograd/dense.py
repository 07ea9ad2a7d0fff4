"""Batch-all and weighted distances over their operators, all pairs at once; differentiable once.

Nothing of N x M numbers is kept: the backward walks the pairs again, or scales a gradient made on the way forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fasttriplet.engines import operator
from fasttriplet.pairing import poison_of


class BatchAllSums(torch.autograd.Function):
    """Sums [N] of every anchor's losses, counts [2, N] of its active and of all its triplets, how often each candidate
    is the negative of an active one [M], and the batch's poison [].

    ``uniform``: the gradient that comes back is one number for all anchors, so that the gradient of the sums' sum,
    divided by the number of triplets as a mean is, is made on the way forward, when the pairs are at hand.
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
        margin: float,
        soft_margin: bool,
        uniform: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.uniform = uniform and (ctx.needs_input_grad[0] or ctx.needs_input_grad[2])
        ctx.numbers, ctx.options = numbers, (distance, margin, soft_margin)
        sums, counts, negative_counts, *gradients = operator("batch_all", embeddings.device)(
            embeddings, labels, ref_embeddings, pairing, numbers, *ctx.options, ctx.uniform
        )
        poison = poison_of(embeddings, labels, ref_embeddings, pairing, numbers)
        ctx.mark_non_differentiable(counts, negative_counts, poison)
        kept = (counts[1].sum(), *gradients) if ctx.uniform else ()
        ctx.kept = len(kept)
        ctx.save_for_backward(embeddings, labels, ref_embeddings, poison, *kept, *pairing)
        return sums, counts, negative_counts, poison

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        arguments, factor, gradients = saved(ctx)
        if ctx.uniform:
            triplets, *gradients = gradients
            factor = factor * (grad[:1].sum() * triplets)  # the same number everywhere; 0 in an empty batch
        else:
            gradients = operator("_batch_all_backward", grad.device)(grad, *arguments, *ctx.options)
        return *_results("batch_all_triplet_loss", grad, arguments, factor, *gradients), *[None] * 6


class WeightedDistances(torch.autograd.Function):
    """Softly weighted distances [2, N] to the positives and to the negatives, NaN where there is none; poison []."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None,
        pairing: tuple[Tensor | None, ...],
        numbers: tuple[int, ...],
        distance: int,
    ) -> tuple[Tensor, Tensor]:
        values = operator("weighted_distances", embeddings.device)(
            embeddings, labels, ref_embeddings, pairing, numbers, distance
        )
        poison = poison_of(embeddings, labels, ref_embeddings, pairing, numbers)
        ctx.mark_non_differentiable(poison)
        ctx.numbers, ctx.distance, ctx.kept = numbers, distance, 1
        ctx.save_for_backward(embeddings, labels, ref_embeddings, poison, values, *pairing)
        return values[:2].clone(), poison

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        arguments, poison, (values,) = saved(ctx)
        backward = operator("_weighted_distances_backward", grad.device)
        gradients = backward(grad, *arguments, ctx.distance, values)
        return *_results("weighted_triplet_loss", grad, arguments, poison, *gradients), *[None] * 3


class DifferentiableOnce(torch.autograd.Function):
    """The gradient as it is; an error once it is itself differentiated, by any means."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, function: str, *inputs: Tensor | None) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function = inputs[1]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        raise NotImplementedError(
            f"{ctx.function} is differentiable once; a second derivative of it has fasttriplet.reference.{ctx.function}"
        )


def saved(ctx: Any) -> tuple[tuple[Any, ...], Tensor, list[Tensor]]:
    """The first five arguments of the operators, the poison, and what the way forward made."""
    embeddings, labels, ref_embeddings, poison, *rest = ctx.saved_tensors
    return (embeddings, labels, ref_embeddings, rest[ctx.kept :], ctx.numbers), poison, rest[: ctx.kept]


def _results(
    function: str, grad: Tensor, arguments: tuple[Any, ...], factor: Tensor, gradient: Tensor, ref_gradient: Tensor
) -> tuple[Tensor, None, Tensor | None]:
    """Gradients of embeddings, labels and references, None without any, times ``factor``: the poison is in it."""
    embeddings, ref_embeddings = arguments[0], arguments[2]
    results = [gradient * factor] + ([] if ref_embeddings is None else [ref_gradient * factor])
    if torch.is_grad_enabled():  # create_graph=True
        results = [DifferentiableOnce.apply(result, function, grad, embeddings, ref_embeddings) for result in results]
    return results[0], None, results[1] if ref_embeddings is not None else None
