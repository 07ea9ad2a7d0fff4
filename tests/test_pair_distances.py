"""Distances of given pairs in plain PyTorch, beside the specification's."""

import pytest
import torch

from fasttriplet.pair_distances import pair_distances, zero_rows
from fasttriplet.reference.distances import paired_distances
from tests.inputs import DISTANCES


def rows_and_pairs(d=5):
    rows = torch.randn(12, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows[3] = rows[2]
    rows[[7, 8]] = 0
    first, second = torch.arange(12), torch.arange(12).roll(1)  # with equal rows, and a zero row beside each kind
    return rows, first, second


@pytest.mark.parametrize("d", [0, 1, 5])
@pytest.mark.parametrize("distance", DISTANCES)
def test_values_and_gradients_are_the_specifications(distance, d):
    rows, first, second = rows_and_pairs(d)
    results = []
    for function in (lambda x: pair_distances(x[first], x[second], distance), None):
        leaf = rows.clone().requires_grad_()
        found = function(leaf) if function else paired_distances(leaf, first, second, distance)
        found.sum().backward()
        results.append((found.detach(), leaf.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_cosines_do_not_depend_on_the_length_of_rows(scale):
    rows, first, second = rows_and_pairs()
    rows = rows.float()
    leaf = (rows * scale).requires_grad_()
    found = pair_distances(leaf[first], leaf[second], "cosine")
    torch.testing.assert_close(found, pair_distances(rows[first], rows[second], "cosine"))
    found.sum().backward()
    assert leaf.grad.isfinite().all() and leaf.grad.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_which_rows_are_zero(dtype):
    """By their norm: of float64 below the smallest normal number, as the kernels have it; of float32 zeros alone."""
    tiny = torch.finfo(torch.float64).smallest_normal
    rows = torch.zeros(5, 3, dtype=dtype)
    rows[1:, 0] = torch.tensor([1.0, 1e300, 0.9 * tiny, tiny], dtype=torch.float64) if dtype == torch.float64 else 1e-45
    rows[3, 1] = rows[3, 0] / 4
    zero = zero_rows(rows).tolist()
    assert zero == [True, False, False, dtype == torch.float64, False]
    leaf = rows.clone().requires_grad_()
    found = pair_distances(leaf, torch.ones_like(rows), "cosine")
    assert (found.detach() == 1).tolist() == zero
    found.sum().backward()
    assert leaf.grad.any(1).logical_not().tolist() == zero and zero_rows(rows[:, :0]).all()
