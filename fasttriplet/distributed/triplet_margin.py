"""The loss of explicit triplets of all ranks: each rank's stay where they are, two distances of each travel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES, REDUCTIONS
from fasttriplet.distributed.agreement import Statement, agreed
from fasttriplet.distributed.autograd import refuse_second_derivative
from fasttriplet.distributed.group import Group
from fasttriplet.distributed.untransformed import refuse_transforms
from fasttriplet.engines import operator
from fasttriplet.portable.checks import check_triplet_weights, check_triplets

#: The options as the operator takes them; distance and reduction as codes.
_NAMES = ("margin", "distance", "swap", "soft_margin", "mining_margin", "reduction")


def triplet_margin_of_all(
    process_group: object,
    gradient_scale: object,
    checked: Callable[[], tuple[tuple[Tensor, Tensor, Tensor, Tensor | None], tuple[Any, ...]]],
) -> Tensor:
    """The loss of the triplets of all ranks; ``checked`` gives this rank's rows and weights, and the options."""
    refuse_transforms("triplet_margin_loss")
    group = Group(process_group)

    def own() -> tuple[Statement, Any]:
        tensors, options = checked()
        check_triplets(*tensors[:3])
        check_triplet_weights(tensors[3], tensors[0])
        named = dict(zip(_NAMES, options, strict=True))
        alike = {
            **named,
            "distance": DISTANCES[named["distance"]],
            "reduction": REDUCTIONS[named["reduction"]],
            "gradient_scale": gradient_scale,
            "the dtype of anchor": tensors[0].dtype,
            "the device type of anchor": tensors[0].device.type,
            "weights": "given" if tensors[3] is not None else "not given",
        }
        return Statement(alike, len(tensors[0])), (tensors, options)

    statements, (tensors, options) = agreed(group, own)
    sizes = [statement.rows for statement in statements]
    factor = group.size if gradient_scale == "mean" else 1
    return _TripletMarginOfAll.apply(*tensors, options, factor, group, sizes)


class _TripletMarginOfAll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        weights: Tensor | None,
        options: tuple[Any, ...],
        factor: int,
        group: Group,
        sizes: Sequence[int],
    ) -> Tensor:
        margin, distance, swap, soft_margin, mining_margin, reduction = options
        function = operator("triplet_margin_loss", anchor.device)
        told = margin, distance, swap, soft_margin, mining_margin
        loss, values = function(anchor, positive, negative, weights, *told, REDUCTIONS.index("none"))
        if REDUCTIONS[reduction] != "none":
            loss, slopes = _reduced(group, sizes, values, weights, options)
            values[0] = slopes
        values[0] *= factor
        ctx.save_for_backward(anchor, positive, negative, values)
        ctx.options = distance, swap
        return loss.to(anchor.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        wanted = ctx.needs_input_grad[:3]
        gradients = operator("_triplet_margin_loss_backward", grad.device)(
            grad, *ctx.saved_tensors, *ctx.options, *wanted
        )
        return *(each if is_wanted else None for each, is_wanted in zip(gradients, wanted, strict=True)), *[None] * 5


def _reduced(
    group: Group, sizes: Sequence[int], values: Tensor, weights: Tensor | None, options: tuple[Any, ...]
) -> tuple[Tensor, Tensor]:
    """The loss of all triplets, float64, and the slopes [T] of this rank's.

    By the operator itself, of rows that have these distances: -(-1 d) = d, exactly.
    """
    margin, _, _, soft_margin, mining_margin, reduction = options
    # A triplet of which nothing is known, by its slope, is one whatever its distances.
    distances = torch.where(values[0].isnan(), torch.nan, values[1:3])
    sent = {"distances": distances.T}
    if weights is not None:
        sent["weights"] = weights.double()  # of whichever dtype each rank's are
    everything = group.rows(sent, sizes)
    to_positive, to_negative = everything["distances"].T[:, :, None].contiguous()
    loss, values_of_all = operator("triplet_margin_loss", values.device)(
        -torch.ones_like(to_positive),
        to_positive,
        to_negative,
        everything.get("weights"),
        margin,
        DISTANCES.index("inner_product"),
        False,
        soft_margin,
        mining_margin,
        reduction,
    )
    return loss, group.of_each(values_of_all[0], sizes)
