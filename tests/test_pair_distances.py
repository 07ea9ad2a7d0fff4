"""Distances of given pairs in plain PyTorch, beside the specification's."""

import pytest
import torch

from fasttriplet.pair_distances import pair_distances
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
