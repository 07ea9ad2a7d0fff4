"""Classes that are a good part of the batch: pairs by the thousand for each anchor, in the memory of a few."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fasttriplet
from fasttriplet import reference
from fasttriplet.check import DISTANCES
from tests import engine
from tests.engine import host_only
from tests.family import NAMES, assert_as_reference

ROOT = Path(__file__).parents[1]


def random(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def classes(n: int, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, count, (n,), generator=torch.Generator().manual_seed(seed))


BATCHES = {
    "random": random(170, 24),
    "float64": random(170, 24).double(),
    "offset": random(170, 24) + 100,
    "duplicates": random(170, 24)[classes(170, 60, 1)],
    "collapsed": 1 + 1e-6 * random(170, 24),
}


@pytest.mark.parametrize("soft_margin", [False, True], ids=["hinge", "soft"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_the_references(name, batch, distance, soft_margin):
    rows, labels = BATCHES[batch], classes(170, 2)
    assert_as_reference(name, rows, labels, distance=distance, soft_margin=soft_margin)


@pytest.mark.parametrize("reduction", ["mean", "mean_nonzero", "sum", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_reductions_and_weights(name, reduction):
    rows, labels = random(150, 8), classes(150, 3)
    assert_as_reference(name, rows, labels, reduction=reduction)
    weights = torch.rand(150, generator=torch.Generator().manual_seed(2))
    assert_as_reference(name, rows, labels, reduction=reduction, weights=weights)


@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean", "inner_product"])
def test_pulls_of_equal_rows_cancel_to_zero(distance):
    """Every reference is one of two rows: an anchor is pulled to its farther positives and, as far, off a negative."""
    two = random(100, 8)[torch.arange(100) % 2].double()
    rows, labels = two.clone().requires_grad_(), classes(100, 3)
    loss = fasttriplet.semi_hard_triplet_loss(
        rows, labels, ref_embeddings=two, ref_labels=labels, distance=distance, reduction="sum"
    )
    loss.backward()
    assert loss > 0
    assert torch.equal(rows.grad, torch.zeros_like(rows))


@pytest.mark.parametrize("name", NAMES)
def test_who_pairs_with_whom(name):
    rows, labels = random(150, 8), classes(150, 2)
    rules = {
        "groups": {"groups": classes(150, 3, 3)},
        "same group no positive": {"groups": classes(150, 3, 3), "groups_exclude": "positives"},
        "copies": {"sample_ids": classes(150, 70, 4)},
        "ignored": {"ignore_index": 1},
        "references": {"ref_embeddings": random(180, 8, 5), "ref_labels": classes(180, 2, 6)},
        "several labels": {},
    }
    for rule, arguments in rules.items():
        told = classes(150, 3) if rule == "ignored" else labels
        if rule == "several labels":
            told = torch.rand(150, 5, generator=torch.Generator().manual_seed(7)) < 0.3
        assert_as_reference(name, rows, told, **arguments)


def test_a_row_that_is_not_finite():
    rows, labels = random(120, 8), classes(120, 2)
    rows[3, 5] = torch.nan
    rows.requires_grad_()
    loss = fasttriplet.semi_hard_triplet_loss(rows, labels)
    loss.backward()
    assert loss.isnan() and rows.grad.isnan().all()


def test_semi_hard_where_nothing_counts():
    rows = random(40, 4).requires_grad_()
    for labels in (torch.zeros(40), torch.arange(40)):
        for reduction in ("mean", "mean_nonzero", "sum"):
            loss = fasttriplet.semi_hard_triplet_loss(rows, labels.long(), reduction=reduction)
            (gradient,) = torch.autograd.grad(loss, rows)
            assert loss == 0 and not gradient.any()
    empty = torch.zeros(0, 4, requires_grad=True)
    fasttriplet.semi_hard_triplet_loss(empty, torch.zeros(0).long()).backward()
    assert empty.grad.shape == (0, 4)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_infinite_gradient_moves_only_what_is_pulled(reduction):
    rows, labels = (
        torch.tensor([[0.0], [1.0], [1.5], [100.0], [200.0]], requires_grad=True),
        torch.tensor([0, 0, 1, 2, 3]),
    )
    loss = fasttriplet.semi_hard_triplet_loss(rows, labels, margin=1.0, reduction=reduction)
    loss.backward(torch.tensor(torch.inf))
    assert not rows.grad[3:].any() and not rows.grad[:3].isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "mean_nonzero"])
def test_derivatives_of_the_gradient_of_weights(reduction):
    """It is the sums: what comes back through it is no multiple of the weights."""
    rows, labels, direction = random(30, 4).double(), classes(30, 2), random(30, 2, 8).double()[:, 0]
    for weights_first in (True, False):
        found = []
        for module in (fasttriplet, reference):
            leaf, weights = rows.clone().requires_grad_(), random(30, 1, 9).double()[:, 0].exp().requires_grad_()
            loss = module.semi_hard_triplet_loss(leaf, labels, weights=weights, reduction=reduction)
            first, second = (weights, leaf) if weights_first else (leaf, weights)
            (gradient,) = torch.autograd.grad(loss, first, create_graph=True)
            along = direction if weights_first else rows
            found.append((gradient.detach(), *torch.autograd.grad((gradient * along).sum(), second)))
        torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("size", [1e-300, 1e-44, 1.0, 1e100, 1e300])
@pytest.mark.parametrize("reduction", ["mean", "mean_nonzero"])
def test_means_do_not_see_the_size_of_weights(reduction, size):
    rows, labels = random(60, 5), classes(60, 2)
    weights = (0.5 + torch.rand(60, generator=torch.Generator().manual_seed(3))).double()
    found = []
    for scale in (1.0, size):
        leaf = rows.clone().requires_grad_()
        loss = fasttriplet.semi_hard_triplet_loss(leaf, labels, weights=scale * weights, reduction=reduction)
        found.append(torch.autograd.grad(loss, leaf)[0])
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_of_anchors_without_a_pair_touch_no_gradient(value):
    rows, labels = random(12, 3), torch.tensor([0] * 5 + [1] * 6 + [2])
    weights = torch.ones(12)
    weights[11] = value
    found = []
    for module in (fasttriplet, reference):
        leaf = rows.clone().requires_grad_()
        loss = module.semi_hard_triplet_loss(leaf, labels, weights=weights, reduction="sum")
        found.append(torch.autograd.grad(loss, leaf)[0])
    assert found[1].isfinite().all()
    torch.testing.assert_close(found[0], found[1])


def test_cosine_of_the_shortest_rows():
    rows, labels = 1e-307 * random(40, 4).double(), classes(40, 2)
    found = []
    for module in (fasttriplet, reference):
        leaf = rows.clone().requires_grad_()
        loss = module.semi_hard_triplet_loss(leaf, labels, distance="cosine")
        found.append(torch.autograd.grad(loss, leaf)[0])
    assert found[0].isfinite().all() and found[0].any()
    torch.testing.assert_close(found[0] * 1e-307, found[1] * 1e-307)


@pytest.mark.parametrize("weighted", [False, True])
def test_second_derivatives_of_semi_hard(weighted):
    labels = classes(24, 2)
    weights = torch.rand(24, generator=torch.Generator().manual_seed(3)).double() if weighted else None

    def loss(module, rows):
        return module.semi_hard_triplet_loss(rows, labels, margin=0.7, soft_margin=True, weights=weights)

    rows = random(24, 3).double().requires_grad_()
    found, wanted = (
        torch.autograd.grad(torch.autograd.grad(loss(module, rows), rows, create_graph=True)[0].square().sum(), rows)[0]
        for module in (fasttriplet, reference)
    )
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.gradgradcheck(lambda rows: loss(fasttriplet, rows), rows)


@pytest.mark.parametrize("distance", DISTANCES)
def test_semi_hard_has_the_same_bits_for_any_number_of_threads(distance):
    rows, labels, before = random(700, 20), classes(700, 3), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaf = rows.clone().requires_grad_()
            loss = fasttriplet.semi_hard_triplet_loss(leaf, labels, distance=distance)
            found.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@host_only
def test_semi_hard_has_the_same_bits_on_every_instruction_set():
    """More edges than a block of anchors has."""
    code = """
import hashlib, torch, fasttriplet
x = torch.randn(1500, 13, generator=torch.Generator().manual_seed(0)).requires_grad_()
loss = fasttriplet.semi_hard_triplet_loss(x, torch.arange(1500) % 2)
loss.backward()
print(loss.item().hex(), hashlib.sha256(x.grad.numpy().tobytes()).hexdigest())
"""
    tiers = fasttriplet.build_info()["tiers_available"].split(",")
    if len(tiers) == 1:
        pytest.skip("this machine has one tier")
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"FASTTRIPLET_ISA": tier},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for tier in tiers
    }
    assert len(found) == 1


def test_the_gradient_of_short_and_of_long_rows():
    """Weights of near pairs leave float32's range, or squares of far ones."""
    labels = classes(60, 2)
    for size in (1e-30, 1e-20, 1e20, 1e30):
        assert_as_reference("semi_hard", size * random(60, 5), labels, margin=0.3 * size, reduction="sum")


LIMITS = {"batch-hard": 8, "semi-hard": 80, "batch-all": 8, "weighted": 8}  # MiB; 8 bytes a pair would be 64 more


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.skipif(engine.ENGINE == "portable", reason="the portable engine keeps what its chunks need")
@pytest.mark.parametrize("name", LIMITS)
def test_memory_does_not_grow_with_the_pairs(name):
    """4096 x 32 of two classes, 16.8 million pairs."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak_memory", "4096x32", "--samples-per-class", "2048", "--loss", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if "Permission" in run.stderr or "Read-only" in run.stderr:
        pytest.skip("this kernel does not let a process reset its peak memory")
    assert run.returncode == 0, run.stderr
    added = float(run.stdout)
    assert 0.5 <= added <= LIMITS[name], f"added {added} MiB"  # the gradient alone is 0.5
