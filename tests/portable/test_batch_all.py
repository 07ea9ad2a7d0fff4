"""Batch-all by the portable engine on float64 rows is float64 to the end, as its kernel is."""

from __future__ import annotations

import pytest
import torch

import fasttriplet
from fasttriplet import engines
from tests import engine

if engine.ENGINE != "cpu":
    pytest.skip("compares with the CPU's kernels", allow_module_level=True)


def test_the_gradient_of_a_mean_is_float64(monkeypatch):
    rows = torch.randn(60, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    labels = torch.arange(60) % 12

    def gradient(forced):
        monkeypatch.setattr(engines, "forced", forced)
        return torch.autograd.grad(fasttriplet.batch_all_triplet_loss(rows, labels), rows)[0]

    kernels, portable = gradient(False), gradient(True)
    assert (portable - kernels).norm() <= 1e-13 * kernels.norm()
