"""A training script as users start it: ``torchrun --nproc-per-node=2``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.by_torchrun import steps

ROOT = Path(__file__).resolve().parents[2]


def test_the_losses_are_those_of_one_process(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [*command, "-m", "tests.distributed.by_torchrun"],
        cwd=ROOT,
        env=os.environ | {"LOSSES": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert result.returncode == 0, result.stderr
    expected = steps(0, 1)
    for rank in range(2):
        losses = [float(line) for line in (tmp_path / f"{rank}.txt").read_text().split()]
        assert losses == pytest.approx(expected, rel=1e-12)
        assert torch.tensor(losses).diff().abs().min() > 0
