"""Losses have the same bits whatever the number of threads: sums run in one order, and so do exponentials of long
tensors."""

import pytest
import torch

import fasttriplet
from fasttriplet.reduction import Options, losses_of
from tests.engine import host_only

N = 12_000  # rows, with 3 ordered positive pairs each: more than one thread sums up


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@host_only
@pytest.mark.parametrize("soft_margin", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "mean_nonzero"])
@pytest.mark.parametrize("name", ["semi_hard", "batch_hard", "k_hardest"])
def test_weights_and_statistics_are_the_same_with_any_number_of_threads(name, reduction, soft_margin, threads):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    numbers = torch.rand(N, generator=generator, dtype=torch.float64)
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        leaves = [rows.clone().requires_grad_(), numbers.clone().requires_grad_()]
        loss, stats = getattr(fasttriplet, f"{name}_triplet_loss")(
            leaves[0],
            torch.arange(N) // 4,
            weights=leaves[1],
            reduction=reduction,
            soft_margin=soft_margin,
            distance="squared_euclidean",
            return_stats=True,
        )
        loss.sum().backward()
        found.append([loss.detach(), *stats, *(leaf.grad for leaf in leaves)])
    for other in found[1:]:
        for number, (value, expected) in enumerate(zip(other, found[0], strict=True)):
            assert torch.equal(value, expected), number


@host_only
def test_softplus_is_the_same_in_vectors_and_at_their_ends(threads):
    """PyTorch takes another exponential for what is left of a tensor, or of a thread's part, behind whole vectors."""
    distances = 3 * torch.randn(2, 40_013, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, poison = torch.ones(2, 40_013, dtype=torch.bool), torch.ones((), dtype=torch.float64)
    options = Options(0.0, 0, True, "none", "skip")
    values = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        values.append(losses_of(distances, found, poison, options).values)
    assert torch.equal(values[1], values[0]) and torch.equal(values[2], values[0])
