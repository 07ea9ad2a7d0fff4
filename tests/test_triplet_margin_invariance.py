"""Explicit triplets: strides, threads, instruction sets and modes of the processor change no bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fasttriplet
from fasttriplet import triplet_margin_loss
from tests.engine import ENGINE
from tests.inputs import DISTANCES
from tests.triplets import Inputs, positive_weights, same, triplets, with_gradients


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("distance", DISTANCES)
def test_strides_and_views(dtype, distance):
    rows = [row.detach() for row in triplets("gauss-33x17", dtype)]

    def run(views):
        return with_gradients(triplet_margin_loss, views, distance=distance, swap=True)

    expected = run(rows)
    wide = torch.zeros(3, 66, 40, dtype=dtype)
    wide[:, ::2, 3:37:2] = torch.stack(rows)
    assert same(run([row.t().contiguous().t() for row in rows]), expected)
    assert same(run(list(wide[:, ::2, 3:37:2])), expected)
    mixed = [rows[0], rows[1].t().contiguous().t(), wide[2, ::2, 3:37:2]]
    assert same(run(mixed), expected)
    expanded = [rows[0][:1].expand(33, 17), rows[1], rows[2][:, :1].expand(33, 17)]
    assert same(run(expanded), run([row.contiguous() for row in expanded]))
    # The upstream gradient too: an expanded one, of sum(), and a strided one.
    leaf = rows[0].clone().requires_grad_()
    losses = triplet_margin_loss(leaf, *rows[1:], distance=distance, reduction="none")
    strided = torch.ones(33, 2, dtype=losses.dtype)[:, 0]
    by_sum = torch.autograd.grad(losses.sum(), leaf, retain_graph=True)
    assert same(by_sum, torch.autograd.grad(losses, leaf, strided))


@pytest.mark.parametrize("shape", [(64, 128), (1000, 37), (4000, 64)])
@pytest.mark.parametrize("distance", DISTANCES)
def test_thread_count_and_repetition(shape, distance):
    rows = triplets(Inputs("threads", shape), torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 8, 8):
            torch.set_num_threads(threads)
            results.append(with_gradients(triplet_margin_loss, rows, distance=distance, swap=True, soft_margin=True))
    finally:
        torch.set_num_threads(before)
    assert all(same(result, results[0]) for result in results[1:])


_DIGEST = """
import hashlib, torch
import fasttriplet
from fasttriplet import triplet_margin_loss
from tests.inputs import DISTANCES
from tests.triplets import Inputs, positive_weights, triplets, with_gradients
digest = hashlib.sha256()
for dtype in (torch.float64, torch.float32):
    for distance in DISTANCES:
        for shape in ((33, 17), (200, 130), (5, 3)):
            rows = triplets(Inputs("tiers", shape), dtype)
            for soft_margin in (False, True):
                weights = positive_weights(shape[0])
                options = dict(distance=distance, swap=True, soft_margin=soft_margin, weights=weights)
                for tensor in with_gradients(triplet_margin_loss, rows, **options):
                    digest.update(tensor.numpy().tobytes())
print(digest.hexdigest(), fasttriplet.build_info()["tier"])
"""


def test_every_instruction_set_gives_the_same_bits():
    tiers = fasttriplet.build_info()["tiers_available"].split(",")
    digests = {}
    for tier in tiers:
        result = subprocess.run(
            [sys.executable, "-c", _DIGEST],
            capture_output=True,
            text=True,
            env=os.environ | {"FASTTRIPLET_ISA": tier},
            cwd=Path(__file__).parents[1],
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        digest, used = result.stdout.split()
        assert used == tier
        digests[tier] = digest
    assert len(set(digests.values())) == 1, digests


@pytest.mark.skipif(ENGINE == "portable", reason="PyTorch's own operators flush as the caller says")
def test_flushing_denormals_changes_nothing():
    rows = [row.detach() * 1e-39 for row in triplets(Inputs("denormal", (2000, 32)), torch.float32)]
    options = dict(margin=0.0, reduction="sum", distance="inner_product")
    expected = with_gradients(triplet_margin_loss, rows, **options)
    assert expected[1].any()
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        leaves = [row.requires_grad_() for row in rows]
        loss = triplet_margin_loss(*leaves, **options)
        found = torch.autograd.grad(loss, leaves, torch.full_like(loss, 0.5))
        assert (torch.tensor([1e-39]) * 1).item() == 0  # the mode is the caller's again
    finally:
        torch.set_flush_denormal(False)
    assert same(found, expected[1:])


def test_inputs_are_left_alone():
    rows = triplets()
    weights = positive_weights(100)
    copies = [row.detach().clone() for row in rows], weights.clone()
    with_gradients(triplet_margin_loss, rows, weights=weights, swap=True, distance="cosine")
    assert same(rows, copies[0]) and torch.equal(weights, copies[1])
