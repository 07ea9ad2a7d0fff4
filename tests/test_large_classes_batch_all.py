"""Batch-all with a hinge where anchors have many positives: counted exactly, summed closely, the same bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fasttriplet
from fasttriplet import reference
from fasttriplet.pairing import checked_batch
from tests.engine import host_only
from tests.family import assert_as_reference
from tests.inputs import DISTANCES, DTYPES, PAIRINGS, pair_up


def _rows(n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n + d), dtype=torch.float64)


def _scaled(rows: Tensor, factors: Tensor) -> Tensor:
    return rows * factors[:, None]


#: By name how rows are made of random ones; exact ties, and keys that tell nothing.
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "random": lambda x: x,
    "offset": lambda x: x + 1e4,
    "clusters": lambda x: 4 * x[torch.arange(len(x)) % 4] + 0.02 * x,
    "decades": lambda x: _scaled(x, torch.logspace(-3, 3, len(x), dtype=x.dtype)),
    "outlier": lambda x: _scaled(x, torch.where(torch.arange(len(x)) == 3, 1e3, 1.0)),
    "collapsed": lambda x: 1 + 1e-6 * x,
    "all-equal": lambda x: x[:1].expand_as(x).clone(),
    "duplicates": lambda x: x[torch.arange(len(x)) % 7],
    "integers": lambda x: (2 * x).round(),
    "almost-ties": lambda x: (2 * x).round() + 1e-6 * x,  # distances apart by less than keys tell, norms by far more
    "zero-rows": lambda x: _scaled(x, (torch.arange(len(x)) % 5 != 0).double()),
    "huge": lambda x: x * 2.0**100,
    "tiny": lambda x: x * 2.0**-100,
}
#: Rows, columns and classes, off the tiles' sizes.
SIZES = [(97, 40, 2), (61, 17, 3), (70, 1, 2)]


def assert_counts(rows: Tensor, labels: Tensor, arguments: dict[str, object], distance: str, margin: float) -> None:
    """Active triplets by anchor and by negative are those of float64."""
    given = checked_batch(rows, labels, arguments)
    code = DISTANCES.index(distance)
    _, counts, negative_counts, *_ = torch.ops.fasttriplet.batch_all(*given.arguments, code, margin, False, False)
    doubled = {name: value.double() for name, value in arguments.items() if name == "ref_embeddings"}
    wanted = reference.batch_of(rows.double(), labels, **{**arguments, **doubled})
    matrix = reference.pairwise_distances(wanted.rows, distance, wanted.references)
    active, per_negative = [], torch.zeros_like(negative_counts)
    for row, positive, negative in zip(matrix, wanted.positive, wanted.negative, strict=True):
        above = row[positive][:, None] - row[negative] + margin > 0
        active.append(above.sum())
        per_negative[negative] += above.sum(0)
    assert torch.equal(counts[0], torch.stack(active))
    assert torch.equal(negative_counts, per_negative)


def _decided(shape: str, distance: str, d: int) -> bool:
    """Whether float64 rounding decides between no two cosines or products."""
    return distance != "cosine" or (d > 1 and shape not in ("integers", "duplicates", "all-equal"))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_counts_are_those_of_float64(shape, distance, dtype):
    for number, (n, d, classes) in enumerate(SIZES):
        if not _decided(shape, distance, d):
            continue
        rows = SHAPES[shape](_rows(n, d)).to(dtype)
        size = float(rows.double().norm(dim=1).median()) if distance.endswith("euclidean") else 1.0
        for turn, pairing in enumerate(("plain", PAIRINGS[1 + number * 3 % (len(PAIRINGS) - 1)])):
            labels, arguments = pair_up(pairing, rows, torch.arange(n) % classes)
            for margin in (0.0, 0.3 * size, -0.1 * size) if turn == 0 else (1e6,):
                assert_counts(rows, labels, arguments, distance, margin)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_losses_of_every_pairing(pairing, distance, dtype):
    for shape in ("random", "offset", "clusters"):
        rows = SHAPES[shape](_rows(101, 17)).to(dtype)
        if shape == "offset" and (dtype == torch.float16 or distance == "cosine"):
            continue  # of cosines within 1e-8 of zero float32 keeps little; tests/test_dense_bound.py says how much
        labels, arguments = pair_up(pairing, rows, torch.arange(101) % 3)
        weights = torch.arange(101, dtype=torch.float32) % 4
        options = dict(distance=distance, margin=0.5, reduction="none" if shape == "random" else "mean_nonzero")
        assert_as_reference("batch_all", rows, labels, weights=weights, **options, **arguments)


@pytest.mark.parametrize("shape", ["decades", "outlier", "duplicates", "zero-rows", "all-equal", "huge", "tiny"])
@pytest.mark.parametrize("distance", DISTANCES[:3])
def test_gradients_of_rows_that_keys_tell_little_of(shape, distance):
    rows = SHAPES[shape](_rows(97, 30)).float()
    margin = 0.3 * float(rows.double().norm(dim=1).median()) if distance.endswith("euclidean") else 0.2
    if margin > 1e30 or (shape == "tiny" and distance == "cosine"):
        margin = 1.0
    if not (shape == "huge" and distance == "squared_euclidean"):
        assert_as_reference("batch_all", rows, torch.arange(97) % 2, margin=margin, distance=distance)


@pytest.mark.parametrize("shape", ["random", "clusters", "collapsed"])
@pytest.mark.parametrize("dtype", DTYPES[:2])
@host_only
def test_threads_change_no_bit(shape, dtype):
    rows = SHAPES[shape](_rows(700, 20)).to(dtype)
    references = rows.flip(0)[:333].clone()
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for arguments in ({}, {"ref_embeddings": references, "ref_labels": torch.arange(333) % 2}):
                leaf = rows.clone().requires_grad_()
                each = fasttriplet.batch_all_triplet_loss(leaf, torch.arange(700) % 2, reduction="none", **arguments)
                (gradient,) = torch.autograd.grad(each.square().sum(), leaf)
                found.append((each.detach(), gradient))
    finally:
        torch.set_num_threads(before)
    for number, result in enumerate(found):
        assert all(torch.equal(a, b) for a, b in zip(result, found[number % 2], strict=True))


def test_a_row_that_is_not_finite():
    rows, labels = _rows(97, 9).float(), torch.arange(97) % 2
    rows[7, 1] = torch.nan
    leaf = rows.clone().requires_grad_()
    loss = fasttriplet.batch_all_triplet_loss(leaf, labels)
    loss.backward()
    assert loss.isnan() and leaf.grad.isnan().all()
    labels[7] = 5
    assert_as_reference("batch_all", rows, labels, ignore_index=5)


def test_losses_that_overflow_are_nan():
    rows = _rows(60, 2)
    rows[3] *= 1e160
    loss = fasttriplet.batch_all_triplet_loss(rows, torch.arange(60) % 2, distance="squared_euclidean")
    assert loss.isnan()


@pytest.mark.parametrize("upstream", [0.0, -2.5, 1e-20])
def test_upstream_gradients_of_any_size(upstream):
    rows, labels = _rows(97, 30).float(), torch.arange(97) % 2
    assert_as_reference("batch_all", rows, labels, torch.tensor(upstream, dtype=torch.float64), reduction="sum")
