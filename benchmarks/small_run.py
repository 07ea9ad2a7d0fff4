"""One small run through every CUDA kernel: ``compute-sanitizer python -m benchmarks.small_run``."""

from __future__ import annotations

import os

import torch

import fasttriplet
from fasttriplet.check import DISTANCES


def main(device: str = "cuda") -> None:
    generator = torch.Generator().manual_seed(0)
    for products in ("tensor", "float"):
        os.environ["FASTTRIPLET_CUDA_PRODUCTS"] = products
        # Small and large tiles, ranked and radix-sorted labels; whole numbers tie and reach the exact scan.
        for n, d, dtype in ((97, 33, torch.float32), (300, 70, torch.float64), (2500, 8, torch.float32)):
            rows = (2 * torch.randn(n, d, generator=generator, dtype=dtype)).round().to(device).requires_grad_()
            labels = torch.randint(0, n // 4, (n,), generator=generator).to(device)
            for distance in DISTANCES:
                loss = fasttriplet.batch_hard_triplet_loss(rows, labels, distance=distance)
                loss.backward()
                assert loss.isfinite() and rows.grad is not None and rows.grad.isfinite().all()
    hopper = device == "cuda" and torch.cuda.get_device_capability() == (9, 0)
    for products in ("tensor", "wgmma") if hopper else ("tensor",):
        os.environ["FASTTRIPLET_CUDA_PRODUCTS"] = products
        rows = torch.randn(4200, 80, generator=generator).to(device).requires_grad_()  # large tiles
        fasttriplet.batch_hard_triplet_loss(rows, torch.arange(4200, device=device) // 3).backward()
    print("small run: done")


if __name__ == "__main__":
    main()
