"""What the benchmarks time: batches, one training step on them, and the checks that come before any timing."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

import fasttriplet
from fasttriplet import reference

OURS, YARDSTICK = "fasttriplet", "mm"
MARGIN = 0.3  # of every contender
#: Contenders that compute in float32 round their distances; a mean loss hardly moves.
LOSS_TOLERANCE = 1e-4


def size(text: str) -> tuple[int, int]:
    """ "NxD" of a command line."""
    try:
        n, d = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a size must be NxD, two integers; got {text!r}") from None
    if n < 1 or d < 1:
        raise argparse.ArgumentTypeError(f"a size must be positive; got {text!r}")
    return n, d


def positive(text: str) -> int:
    """A count of a command line."""
    try:
        count = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a count must be an integer; got {text!r}") from None
    if count < 1:
        raise argparse.ArgumentTypeError(f"a count must be positive; got {text!r}")
    return count


def shape_name(n: int, d: int) -> str:
    return f"{n} x {d}"


def batch(n: int, d: int, samples_per_class: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Random unit vectors [n, d], as an embedding network gives them, and shuffled labels [n]."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    rows = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=exact), dim=1).to(dtype)
    labels = (torch.arange(n) // samples_per_class)[torch.randperm(n, generator=generator)]
    return rows.requires_grad_(), labels


def step(loss: Callable[..., Tensor], rows: Tensor, labels: Tensor, **options: object) -> Callable[[], None]:
    """Forward plus backward; ``options`` go to the loss."""

    def run() -> None:
        rows.grad = None
        loss(rows, labels, **options).backward()

    return run


def verify(rows: Tensor, labels: Tensor, distance: str) -> str:
    """Raises AssertionError unless a sample of anchors is mined as float64 does; says what was compared.

    The loss and its gradient too must be those of the mined pairs, differentiated by PyTorch in float64.
    """
    mined = fasttriplet.mine_batch_hard(rows, labels, distance=distance)
    verify_gradient(rows, labels, distance, mined)
    n = len(labels)
    if n <= 2048:
        expected = reference.mine_batch_hard(rows.detach().double(), labels, distance=distance)
        assert torch.equal(mined.positives, expected.positives) and torch.equal(mined.negatives, expected.negatives)
        return f"all {n} anchors"
    wide = rows.detach().double()
    anchors = torch.linspace(0, n - 1, 64).long().unique()
    everyone = torch.arange(n, device=rows.device)
    for anchor in anchors.tolist():
        # The reference on one anchor against all: row `anchor` of its distance matrix.
        pairs = torch.full_like(everyone, anchor), everyone
        distances = reference.paired_distances(wide, *pairs, distance)
        same = labels == labels[anchor]
        nearest = -1 if same.all() else torch.where(same, torch.inf, distances).argmin()
        assert mined.negatives[anchor] == nearest
        same[anchor] = False
        farthest = torch.where(same, distances, -torch.inf).argmax() if same.any() else -1
        assert mined.positives[anchor] == farthest
    return f"{len(anchors)} anchors"


def verify_gradient(rows: Tensor, labels: Tensor, distance: str, mined: fasttriplet.MinedTriplets) -> None:
    leaf, wide = rows.detach().clone().requires_grad_(), rows.detach().double().requires_grad_()
    loss = fasttriplet.batch_hard_triplet_loss(leaf, labels, margin=MARGIN, distance=distance)
    loss.backward()
    anchors, positives, negatives = mined.triplets()
    if len(anchors) == 0:
        assert loss.item() == 0 and not leaf.grad.any()
        return
    ap = reference.paired_distances(wide, anchors, positives, distance)
    an = reference.paired_distances(wide, anchors, negatives, distance)
    expected = torch.relu(ap - an + MARGIN).mean()
    expected.backward()
    resolution = torch.finfo(rows.dtype).eps
    torch.testing.assert_close(loss.double(), expected, rtol=2 * resolution + 1e-13, atol=0)  # sums of N, in any order
    largest = wide.grad.abs().max().item()
    torch.testing.assert_close(leaf.grad.double(), wide.grad, rtol=4 * resolution, atol=4 * resolution * largest)


def verify_peer(name: str, loss: Callable[..., Tensor], rows: Tensor, labels: Tensor) -> None:
    """Raises AssertionError unless a peer's loss is the exact one within LOSS_TOLERANCE."""
    exact = fasttriplet.batch_hard_triplet_loss(rows, labels, margin=MARGIN).item()
    value = loss(rows, labels).item()
    assert abs(value - exact) <= LOSS_TOLERANCE * abs(exact), f"{name} computes {value}, not {exact}"
