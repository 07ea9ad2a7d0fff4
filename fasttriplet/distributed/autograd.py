"""What connects a rank's tensors to those of all ranks: forward a collective or none, backward the other way.

The gradient of what every rank holds is the same on all of them, but for that of rows, of which each rank has the part
that its own anchors make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fasttriplet.distributed.group import Group
from fasttriplet.engines import operator


class JoinedRows(torch.autograd.Function):
    """All rows [N, D] as of this rank's ``own`` [n, D], for sums over all pairs.

    Backward: every rank sends each other what its anchors pull of that one's rows, once, and adds up what it gets in
    the order of the ranks, in float64: the same bits on every run. N * D numbers are sent and as many come.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, everything: Tensor, group: Group, sizes: Sequence[int]) -> Tensor:
        ctx.group, ctx.sizes = group, sizes
        return everything.view_as(everything)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.group.pieces(grad, ctx.sizes)
        total = parts[0].double()
        for part in parts[1:]:
            total = total + part
        return total.to(grad.dtype), None, None, None


class JoinedValues(torch.autograd.Function):
    """Values [N, ...] of all rows as of this rank's ``own`` [n, ...]. All ranks make the same of them: no gradient
    travels. It is multiplied by ``factor``, in float64.
    """

    @staticmethod
    def forward(
        ctx: Any, own: Tensor, everything: Tensor, group: Group, sizes: Sequence[int], factor: int = 1
    ) -> Tensor:
        ctx.group, ctx.sizes, ctx.factor = group, sizes, factor
        return everything.view_as(everything)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        own = ctx.group.of_each(grad, ctx.sizes)
        if ctx.factor != 1:
            own = (own.double() * ctx.factor).to(own.dtype)
        return own, None, None, None, None


class Tied(torch.autograd.Function):
    """The loss as it is, joined to ``rows`` as well, though nothing of it may come from them: on the way back every
    rank then sends the others what it owes them, zeros too.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, rows: Tensor) -> Tensor:
        ctx.shape, ctx.like = rows.shape, rows.new_empty(0)
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, ctx.like.new_zeros(ctx.shape)


class OwnValues(torch.autograd.Function):
    """This rank's part of values in rank order. Backward: each rank's gradient of its own, gathered."""

    @staticmethod
    def forward(ctx: Any, everything: Tensor, group: Group, sizes: Sequence[int]) -> Tensor:
        ctx.group, ctx.sizes = group, sizes
        return group.of_each(everything, sizes).clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.group.rows({"values": grad}, ctx.sizes)["values"], None, None


class Scaled(torch.autograd.Function):
    """The loss as it is, its gradient times ``factor``: in float64, before anything is rounded."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.factor, None


class DistancesOfAll(torch.autograd.Function):
    """Distances [2, T] of the triplets of all ranks, as of this rank's ``own`` rows and ``own_references``.

    Backward: a row gathers what all triplets pull of it, as in one process and in the same order. Nothing travels.
    """

    @staticmethod
    def forward(
        ctx: Any,
        own: Tensor,
        own_references: Tensor | None,
        embeddings: Tensor,  # [N, D] of all ranks, or of references all [M, D]
        ref_embeddings: Tensor | None,
        distances: Tensor,
        triplets: Tensor,
        poison: Tensor,
        distance: int,
        parts: Sequence[int],  # first row, rows, first reference and references of this rank
    ) -> Tensor:
        ctx.save_for_backward(embeddings, ref_embeddings, distances, triplets, poison)
        ctx.distance, ctx.parts = distance, parts
        return distances.view_as(distances)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, ref_embeddings, distances, triplets, poison = ctx.saved_tensors
        backward = operator("_triplet_distances_backward", grad.device)
        refuse_second_derivative()
        parts = wanted_parts(ctx)
        own, theirs = backward(grad, embeddings, ref_embeddings, distances, triplets, ctx.distance, parts)
        return own * poison, theirs * poison if ctx.needs_input_grad[1] else None, *[None] * 7


def wanted_parts(ctx: Any) -> list[int]:
    """``ctx.parts``, without the references where nobody asks for their gradient: of a memory they are many."""
    first, rows, first_reference, references = ctx.parts
    return [first, rows, first_reference, references if ctx.needs_input_grad[1] else 0]


def refuse_second_derivative() -> None:
    """On the way back with ``create_graph=True``."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "losses over a process_group are differentiable once; a second derivative has the loss of one process"
        )
