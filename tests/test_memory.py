"""Peak memory, and batches of more pairs than a 32-bit number counts."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fasttriplet
from tests import engine

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_forward_and_backward_add_little_memory():
    """At N = 32768, D = 128 the inputs have 16 MiB, the gradient as much; everything together stays below 64 MiB.

    By the portable engine, which holds the rows in float64 and rounded ones beside them, below 160.
    """
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak_memory", "32768x128"], cwd=ROOT, capture_output=True, text=True
    )
    if "Permission" in run.stderr or "Read-only" in run.stderr:
        pytest.skip("this kernel does not let a process reset its peak memory")
    assert run.returncode == 0, run.stderr
    added = float(run.stdout)
    assert 16 <= added < (160 if engine.ENGINE == "portable" else 64), (
        f"added {added} MiB"
    )  # the gradient alone is 16: less would mean nothing was measured


@pytest.mark.slow
def test_more_pairs_than_two_to_the_31():
    n = 46342  # n * n > 2^31
    assert n * n > 2**31
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(n, 4, generator=generator).requires_grad_()
    labels = torch.randint(0, n // 4, (n,), generator=generator)
    fasttriplet.batch_hard_triplet_loss(embeddings, labels).backward()
    assert embeddings.grad.isfinite().all()
    mined = fasttriplet.mine_batch_hard(embeddings, labels)
    rows = embeddings.detach().double()
    for i in (0, 1, 23170, n - 2, n - 1):
        distances = (rows - rows[i]).square().sum(1)
        same = labels == labels[i]
        assert mined.negatives[i] == torch.where(same, torch.inf, distances).argmin()
        same[i] = False
        assert mined.positives[i] == (torch.where(same, distances, -torch.inf).argmax() if same.any() else -1)
