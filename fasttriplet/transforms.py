"""Losses under the transforms of ``torch.func``: what differs from the ordinary way through ``torch.autograd``.

``torch.func`` wants Functions with ``setup_context``, whose binding of arguments costs an ordinary call 20 us, and
rules for ``vmap``. So a loss asks whether a transform is active (:func:`active`), and only then goes by what is here:
distances of mined triplets in plain PyTorch, which every transform knows, and Functions of their own for sums over all
pairs. The operators have rules for ``vmap`` that take one batch after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fasttriplet.autograd.dense import DifferentiableOnce
from fasttriplet.check import DISTANCES, MINERS, REDUCTIONS
from fasttriplet.engines import PORTABLE, operator
from fasttriplet.pair_distances import pair_distances
from fasttriplet.reduction import Options, losses_of, reduced
from fasttriplet.schemas import SCHEMAS


def active() -> bool:
    """Whether ``torch.func`` transforms the call. The detector is private in PyTorch, and this is its one place."""
    return torch._C._are_functorch_transforms_active()


def refuse_compiled(function: str) -> None:
    """NotImplementedError where ``torch.compile`` traces a transform of ``function``: it fails on its Function."""
    if torch.compiler.is_compiling():
        raise NotImplementedError(
            f"{function} under a transform of torch.func cannot be traced by torch.compile: keep the transform out of "
            "what is compiled, or decorate it with torch.compiler.disable"
        )


def under_vmap(tensor: Tensor) -> bool:
    """Whether the tensor stands for a batch of them, at any level, so that its values cannot be asked for."""
    functorch = torch._C._functorch
    while active() and functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def distances_of_mined(
    embeddings: Tensor, ref_embeddings: Tensor | None, triplets: Tensor, poison: Tensor, distance: int
) -> Tensor:
    """[2, T] float64: the distances of mined triplets [3, T], NaN where there is none, differentiable by any means."""
    rows = embeddings.double() * poison
    candidates = rows if ref_embeddings is None else ref_embeddings.double() * poison
    if candidates.shape[0] == 0:  # nobody to choose from
        return 0 * rows.sum() + torch.full_like(triplets[1:], torch.nan, dtype=torch.float64)
    found = triplets[1:] >= 0
    own, chosen = rows[triplets[0]].expand(2, -1, -1), candidates[triplets[1:].clamp_min(0)]  # [2, T, D]
    # What is not found may hold anything, as rows that are ignored do, and has no gradient.
    own, chosen = (torch.where(found[..., None], each, 1.0) for each in (own, chosen))
    sides = [pair_distances(x, y, DISTANCES[distance]) for x, y in zip(own, chosen, strict=True)]
    return torch.where(found, torch.stack(sides), torch.nan)


def triplet_margin(
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
    """The loss of explicit triplets in plain PyTorch, by the arguments of its operator."""
    rows, name = [tensor.double() for tensor in (anchor, positive, negative)], DISTANCES[distance]
    nearby, apart = pair_distances(rows[0], rows[1], name), pair_distances(rows[0], rows[2], name)
    if swap:
        between = pair_distances(rows[1], rows[2], name)
        apart = torch.where(between < apart, between, apart)
    distances = torch.stack([nearby, apart])
    found = torch.ones_like(distances, dtype=torch.bool)
    if mining_margin is not None:  # what is not finite counts
        found = ~((nearby <= apart - mining_margin) & (nearby - apart).isfinite()).expand_as(found)
    options = Options(margin, distance, soft_margin, REDUCTIONS[reduction], "skip")
    one = distances.new_ones(())
    losses = losses_of(distances, found, one, options)
    of_triplets = None if weights is None else weights.double()
    return reduced(losses, of_triplets, one, options.reduction).to(anchor.dtype)


class _ReverseMode(torch.autograd.Function):
    """What the Functions over all pairs share."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(
            "batch_all_triplet_loss and weighted_triplet_loss have no derivative in forward mode, as torch.func.jvp, "
            "jacfwd and hessian take it; fasttriplet.reference has them with one"
        )


class BatchAllSums(_ReverseMode):
    """Sums [N], counts [2, N] and negative counts [M] of batch-all; the way back walks the pairs again."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        sums, counts, negative_counts, *_ = operator("batch_all", inputs[0].device)(*inputs, False)
        return sums, counts, negative_counts

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        _keep(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        arguments = _kept(ctx)
        gradients = operator("_batch_all_backward", grad.device)(grad, *arguments)
        return _gradients("batch_all_triplet_loss", grad, arguments, gradients)


class WeightedDistances(_ReverseMode):
    """The weighted distances [2, N], in the first two rows of the operator's values."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        return operator("weighted_distances", inputs[0].device)(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _keep(ctx, (*inputs, output))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *arguments, values = _kept(ctx)
        gradients = operator("_weighted_distances_backward", grad.device)(grad[:2], *arguments, values)
        return _gradients("weighted_triplet_loss", grad, tuple(arguments), gradients)


def _keep(ctx: Any, values: tuple[Any, ...]) -> None:
    """Tensors where autograd keeps them, the rest beside."""
    leaves, ctx.structure = pytree.tree_flatten(values)
    ctx.save_for_backward(*(leaf if isinstance(leaf, Tensor) else None for leaf in leaves))
    ctx.others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]


def _kept(ctx: Any) -> tuple[Any, ...]:
    leaves = [other if kept is None else kept for kept, other in zip(ctx.saved_tensors, ctx.others, strict=True)]
    return pytree.tree_unflatten(leaves, ctx.structure)


def _gradients(
    function: str, grad: Tensor, arguments: tuple[Any, ...], gradients: tuple[Tensor, Tensor]
) -> tuple[Tensor | None, ...]:
    """By argument: of the embeddings and, where there are any, of the references."""
    inputs = grad, arguments[0], arguments[2]  # what a second derivative would be of
    own, references = (DifferentiableOnce.apply(gradient.detach(), function, *inputs) for gradient in gradients)
    return own, None, None if arguments[2] is None else references, *[None] * (len(arguments) - 3)


def _one_after_the_other(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The rule for ``vmap`` of an operator whose results have one length for every batch."""

    def rule(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        if info.batch_size == 0:
            raise ValueError("embeddings must be at least one batch [N, D] under torch.vmap; got 0 of them")
        leaves, structure = pytree.tree_flatten(arguments)
        dims, _ = pytree.tree_flatten(in_dims, is_leaf=lambda dim: dim is None)
        results = []
        for batch in range(info.batch_size):
            one = [leaf if dim is None else leaf.select(dim, batch) for leaf, dim in zip(leaves, dims, strict=True)]
            results.append(operator(*pytree.tree_unflatten(one, structure)))
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(each) for each in zip(*results, strict=True)), tuple(0 for _ in results[0])

    return rule


def _not_semi_hard(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The miner, which for semi-hard mining has results of another length for every batch."""

    def mine(*arguments: Any) -> Any:
        if MINERS[arguments[6]] == "semi_hard":
            raise ValueError(
                "embeddings must be one batch [N, D] for semi-hard mining, since how many triplets it makes follows "
                "from the values of the labels; got torch.vmap over several"
            )
        return operator(*arguments)

    return mine


for _engine in ("", PORTABLE):
    for _name in (
        *("mine_batch_hard", "batch_all", "_batch_all_backward", "weighted_distances", "_weighted_distances_backward"),
        "mine_triplets",
    ):
        assert _name in SCHEMAS, _name
        _operator = getattr(torch.ops.fasttriplet, _engine + _name)
        if _name == "mine_triplets":
            _operator = _not_semi_hard(_operator)
        torch.library.register_vmap(f"fasttriplet::{_engine}{_name}", _one_after_the_other(_operator))
