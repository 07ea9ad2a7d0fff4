"""What the benchmarks compare with computes the same loss."""

import pytest
import torch

import fasttriplet
from benchmarks import peers


@pytest.mark.parametrize("name", list(peers.available()))
def test_peers_agree_on_a_batch_without_near_ties(name):
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(96, 16, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.arange(96) // 4
    results = []
    for function in (fasttriplet.batch_hard_triplet_loss, peers.available()[name]):
        leaf = rows.clone().requires_grad_()
        loss = function(leaf, labels)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-6, atol=1e-8)


def test_the_benchmark_runs_and_verifies(capsys, monkeypatch):
    from benchmarks import bench_loss

    monkeypatch.setattr("sys.argv", ["bench_loss", "--sizes", "32x8", "--rounds", "1"])
    bench_loss.main()
    table = capsys.readouterr().out
    assert "| 32 x 8 | all 32 anchors |" in table and "gather / mm" in table
