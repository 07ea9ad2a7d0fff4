"""The table of explicit triplets that tests share, and how to compare with the specification."""

from typing import NamedTuple

import torch

from fasttriplet import triplet_margin_loss
from fasttriplet.reference import triplet_margin as specification


class Inputs(NamedTuple):
    """By name; ``tied_cosines``: cosines equal but for rounding, which then decides about swaps and what is kept."""

    name: str
    shape: tuple[int, int]
    change: object = staticmethod(lambda rows: rows)
    tied_cosines: bool = False


def _integers(rows):
    return (2 * rows).round()


def _some_zero(rows):
    keep = torch.ones(3, rows.shape[1], 1, dtype=rows.dtype)
    keep[0, ::3], keep[1, 1::4], keep[2, ::2] = 0, 0, 0
    return rows * keep


def _some_equal(rows):
    rows = rows.clone()
    rows[1, ::3], rows[2, 1::3] = rows[0, ::3], rows[0, 1::3]
    rows[2, ::6] = rows[1, ::6]
    return rows


# Around the kernels' sizes: eight lanes, two chains of them, 32 triplets a task.
INPUTS = (
    *(Inputs(f"gauss-{t}x{d}", (t, d)) for t, d in [(1, 1), (1, 3), (2, 8), (7, 7), (31, 9), (32, 16), (33, 17)]),
    Inputs("gauss-100x37", (100, 37)),
    Inputs("empty", (0, 5)),
    Inputs("no-columns", (6, 0)),
    Inputs("integers", (97, 3), _integers, tied_cosines=True),
    Inputs("zero-rows", (40, 6), _some_zero, tied_cosines=True),
    Inputs("equal-rows", (40, 6), _some_equal, tied_cosines=True),
    Inputs("offset-1e4", (50, 20), lambda rows: rows + 1e4),
    Inputs("six-decades", (50, 20), lambda rows: rows * torch.logspace(-3, 3, 50, dtype=rows.dtype)[:, None]),
    Inputs("huge", (20, 9), lambda rows: rows * 2.0**120),
    Inputs("tiny", (20, 9), lambda rows: rows * 2.0**-120),
)
INPUT_IDS = [inputs.name for inputs in INPUTS]
BY_NAME = {inputs.name: inputs for inputs in INPUTS}


def triplets(inputs="gauss-100x37", dtype=torch.float64, seed=0):
    """anchor, positive, negative as leaves."""
    inputs = BY_NAME[inputs] if isinstance(inputs, str) else inputs
    rows = torch.randn(3, *inputs.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [row.requires_grad_() for row in inputs.change(rows).to(dtype).clone().unbind(0)]


def positive_weights(t, seed=1):
    return torch.rand(t, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_gradients(function, rows, **options):
    leaves = [row.detach().requires_grad_() for row in rows]
    loss = function(*leaves, **options)
    upstream = torch.linspace(0.5, 1.5, loss.numel()).to(loss).view(loss.shape)
    return loss.detach(), *torch.autograd.grad(loss, leaves, upstream)


def assert_as_specified(rows, **options):
    wide = [row.detach().double() for row in rows]
    loss, *gradients = with_gradients(triplet_margin_loss, rows, **options)
    expected, *expected_gradients = with_gradients(specification.triplet_margin_loss, wide, **options)
    assert loss.dtype == (torch.float64 if rows[0].dtype == torch.float64 else torch.float32)
    # What rounding in float64 leaves of sums that cancel: of losses, of products, of unit rows that are parallel.
    norms = torch.cat(wide).norm(dim=1).nan_to_num(0, 0, 0)
    loss_slack, gradient_slack = 1e-12 * largest(expected), 0.0
    if options.get("distance") == "inner_product":
        loss_slack += 1e-15 * norms.square().sum().item()
    if options.get("distance") == "cosine" and norms.any():
        gradient_slack = 4e-15 / norms[norms > 0].min().item()
    resolution = torch.finfo(loss.dtype).eps
    torch.testing.assert_close(
        loss.double(), expected.to(loss.dtype).double(), rtol=4 * resolution + 1e-12, atol=loss_slack, equal_nan=True
    )
    resolution = torch.finfo(rows[0].dtype).eps
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == rows[0].dtype
        slack = (resolution + 1e-11) * largest(wanted) + torch.finfo(rows[0].dtype).smallest_normal
        torch.testing.assert_close(
            gradient.double(),
            wanted.to(rows[0].dtype).double(),
            rtol=4 * resolution + 1e-12,
            atol=slack + gradient_slack,
            equal_nan=True,
        )


def largest(values):
    finite = values[values.isfinite()].abs()
    return finite.max().item() if finite.numel() else 0.0


def out_of_range(inputs, dtype):
    return inputs.name in ("huge", "tiny") and dtype == torch.float16  # rounds to infinity or to zero


def same(left, right):
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(left, right, strict=True))
