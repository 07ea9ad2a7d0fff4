"""Inner products far from the origin, where a score's rounding is above what tells rows apart: the kernels' pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fasttriplet
from fasttriplet import engines
from tests import engine

if engine.ENGINE != "cpu":
    pytest.skip("compares with the CPU's kernels", allow_module_level=True)


def rows_across(offset: float, seed: int) -> Tensor:
    """[96, 8]: a common vector, and small ones at right angles to it."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(96, 8, generator=generator, dtype=torch.float64) * 1e-3
    rows[:, 0] = offset
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    return rows @ turn


@pytest.mark.parametrize("offset", [1e4, 1e5, 1e6])
@pytest.mark.parametrize(
    ("miner", "options"),
    [
        (fasttriplet.mine_batch_hard, {}),
        (fasttriplet.mine_semi_hard, {}),
        (fasttriplet.mine_easy_positive, {}),
        (fasttriplet.mine_k_hardest, {"k": 4}),
        (fasttriplet.mine_k_hardest, {"k": 4, "skip_fraction": 0.2}),
    ],
    ids=["batch_hard", "semi_hard", "easy_positive", "k_hardest", "k_hardest_skip"],
)
def test_pairs_are_the_kernels(miner, options, offset, monkeypatch):
    for seed in range(3):
        rows = rows_across(offset, seed)
        labels = torch.randint(0, 12, (96,), generator=torch.Generator().manual_seed(seed))
        kernels = miner(rows, labels, distance="inner_product", **options)
        with monkeypatch.context() as patch:
            patch.setattr(engines, "forced", True)
            portable = miner(rows, labels, distance="inner_product", **options)
        for ours, theirs in zip(portable, kernels, strict=True):
            assert torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))
