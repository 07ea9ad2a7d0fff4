"""Prints how many MiB one forward and backward add to a fresh process at its peak, inputs not counted.

``python -m benchmarks.peak_memory N D [SAMPLES_PER_CLASS]``; the gradient, N * D * 4 bytes, is part of what is added.
Linux only: the kernel keeps the peak and can start it anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

import fasttriplet


def peak_mib() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def added_mib(n: int, d: int, samples_per_class: int = 4) -> float:
    def step(embeddings: torch.Tensor, labels: torch.Tensor) -> None:
        fasttriplet.batch_hard_triplet_loss(embeddings, labels).backward()

    torch.manual_seed(0)
    step(torch.randn(16, d, requires_grad=True), torch.arange(16) // 4)  # the libraries are up
    embeddings = torch.randn(n, d, requires_grad=True)
    labels = torch.arange(n) // samples_per_class
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_mib()
    step(embeddings, labels)
    return peak_mib() - before


if __name__ == "__main__":
    print(f"{added_mib(*(int(argument) for argument in sys.argv[1:])):.1f}")
