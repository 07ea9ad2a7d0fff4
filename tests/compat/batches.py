"""Batches that the drop-ins and their originals are compared on, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32)
#: (rtol, atol) of values and of gradients: what the originals' matrices of dot products lose. Where two rows are equal
#: they find a distance of the root of a rounding, 1e-8 in float64 and 3e-4 in float32.
VALUE_TOLERANCE = {torch.float64: (1e-9, 1e-7), torch.float32: (1e-4, 1e-3)}
GRADIENT_TOLERANCE = {torch.float64: (1e-6, 1e-7), torch.float32: (1e-3, 2e-3)}

Loss = Callable[[Tensor, Tensor], Tensor]  # embeddings and labels to a scalar


class Batch(NamedTuple):
    rows: Tensor  # [N, D] float64
    labels: Tensor  # [N] int64


def _random(n: int, d: int, classes: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(n, d, generator=generator, dtype=torch.float64),
        torch.randint(0, classes, (n,), generator=generator),
    )


def _duplicates() -> Batch:
    rows, labels = _random(12, 4, 3, 7)
    return Batch(torch.cat([rows, rows]), torch.cat([labels, labels]))


BATCHES = {
    "random": _random(24, 8, 4, 0),
    "large": _random(96, 16, 12, 1),
    "pairs": Batch(_random(40, 5, 2, 2).rows, torch.arange(40) // 2),
    "one large class": Batch(_random(30, 6, 2, 3).rows, torch.arange(30).clamp_min(20)),
    "one dimension": _random(9, 1, 3, 4),
    "missing positives": Batch(_random(10, 4, 2, 5).rows, torch.tensor([0, 0, 1, 2, 3, 3, 3, 4, 5, 6])),
    "no positives": Batch(_random(12, 3, 2, 6).rows, torch.arange(12)),
    "one class": Batch(_random(14, 4, 1, 8).rows, torch.zeros(14, dtype=torch.int64)),
    "one row": Batch(_random(1, 4, 1, 9).rows, torch.tensor([3])),
    "two rows, one class": Batch(_random(2, 4, 1, 10).rows, torch.tensor([3, 3])),
    "two rows, two classes": Batch(_random(2, 4, 1, 11).rows, torch.tensor([3, -3])),
    "duplicates": _duplicates(),
    "all equal": Batch(torch.ones(8, 3, dtype=torch.float64), torch.arange(8) // 4),
}


def by_point(rows: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of each distinct row, summed over its copies: it does not depend on which of them was picked."""
    points, of_row = rows.unique(dim=0, return_inverse=True)
    return torch.zeros(points.shape, dtype=gradient.dtype).index_add_(0, of_row, gradient)


def assert_same(
    ours: Loss,
    original: Loss,
    batch: Batch,
    dtype: torch.dtype,
    *,
    with_gradient: bool = True,
    value_atol: float = 0.0,
    gradient_atol: float = 0.0,
) -> None:
    """Value and gradient are the original's, within the tolerances above, or those given where they are larger."""
    results = []
    for loss in (ours, original):
        leaf = batch.rows.detach().clone().to(dtype).requires_grad_()
        value = loss(leaf, batch.labels)
        (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
        results.append((value.detach(), torch.zeros_like(leaf) if gradient is None else gradient))
    rtol, atol = VALUE_TOLERANCE[dtype]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=rtol, atol=max(atol, value_atol))
    if with_gradient:
        rtol, atol = GRADIENT_TOLERANCE[dtype]
        torch.testing.assert_close(
            *(by_point(batch.rows, entry[1]) for entry in results), rtol=rtol, atol=max(atol, gradient_atol)
        )
