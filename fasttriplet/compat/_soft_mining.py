"""fast-reid's weighted mining, from the sums of :func:`fasttriplet.weighted_triplet_loss`, in memory O(N * D).

With P and N the positives and negatives of an anchor, where the anchor itself, at distance 0, is a positive too:

    d_ap = sum_P d exp(d) / (exp(0) + sum_P exp(d))         slope for a d: exp(d) (1 + d - d_ap) / (the same sum)
    d_an = sum_N d exp(-d) / (1e-6 + sum_N exp(-d))         slope for a d: exp(-d) (1 - d + d_an) / (the same sum)

Both are the means that the operator gives, with a term more in the divisor; so are their slopes, and the operator's
backward takes its means and divisors from its caller. Nothing else has to be summed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fasttriplet import transforms
from fasttriplet.check import DISTANCES, check_tensors
from fasttriplet.engines import operator
from fasttriplet.pairing import checked_batch, poison_of
from fasttriplet.trip import away, there_and_back

#: Of fast-reid, against a division by 0. It is more than all negatives weigh where they are farther than about 14.
_EPSILON = 1e-6


def soft_mined_distances(embeddings: Tensor, labels: Tensor, distance: str) -> tuple[Tensor, Tensor]:
    """(d_ap [N], d_an [N]), float64 where the device has it, as above; 0 where an anchor has no such pair, NaN where a
    row is not finite.
    """
    if away(embeddings):
        return there_and_back(soft_mined_distances, locals())
    if transforms.active():
        raise NotImplementedError(
            "triplet_loss with hard_mining=False cannot be under a transform of torch.func: use torch.autograd, or "
            "fasttriplet.weighted_triplet_loss"
        )
    check_tensors(embeddings, labels)
    batch = checked_batch(embeddings, labels, {})
    nearby, apart = _SoftMined.apply(*batch.arguments, DISTANCES.index(distance)).unbind(0)
    return nearby, apart


class _SoftMined(torch.autograd.Function):
    """d_ap and d_an, [2, N]; differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        labels: Tensor,
        references: None,
        pairing: tuple[None, ...],
        numbers: tuple[int, ...],
        distance: int,
    ) -> Tensor:
        batch = embeddings, labels, references, pairing, numbers
        values = _with_a_term_more(operator("weighted_distances", embeddings.device)(*batch, distance))
        poison = poison_of(*batch)
        ctx.save_for_backward(embeddings, labels, values, poison)
        ctx.options = pairing, numbers, distance
        means = values[:2]
        return torch.where(means.isnan(), 0, means) * poison

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, labels, values, poison = ctx.saved_tensors
        gradient, _ = operator("_weighted_distances_backward", grad.device)(
            grad, embeddings, labels, None, *ctx.options, values
        )
        return gradient * poison, None, None, None, None, None


def _with_a_term_more(values: Tensor) -> Tensor:
    """The operator's values [8, N] (weighted.h among the CPU's kernels) with what fast-reid's divisors have more."""
    mean, pivot, log_total = values[:2], values[2:4], values[4:6]
    # Totals are of exp(d - pivot) and exp(pivot - d): the term is on that scale.
    term = torch.stack([-pivot[0], pivot[1] + math.log(_EPSILON)])
    log_more = torch.logaddexp(log_total, term)
    more = mean * (log_total - log_more).exp()
    return torch.cat([more, pivot, log_more, more - pivot])
