"""Small batches through the CUDA kernels, for a sanitizer: ``compute-sanitizer python -m benchmarks.gpu.small_run``.

``memcheck``: the kernels of float32, two shapes and two distances by each kind of products that can be trusted here.
``racecheck``: the screens alone, whose every access of shared memory it follows; not Hopper's, whose reads of shared
memory by the tensor cores and writes by the copy engine it may not follow.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch

import fasttriplet
from benchmarks.cases import shape_name
from benchmarks.gpu.device import synchronize
from benchmarks.gpu.products import PRODUCTS, distrust, forced


class Plan(NamedTuple):
    shapes: tuple[tuple[int, int], ...]
    distances: tuple[str, ...]
    products: tuple[str, ...]


PLANS = {
    # Small and large tiles, few and many labels to order, with and without the scale of products.
    "memcheck": Plan(((97, 33), (8300, 16)), ("euclidean", "inner_product"), PRODUCTS),
    "racecheck": Plan(((200, 24),), ("euclidean",), ("float", "tensor")),
}


def run(tool: str, device: torch.device) -> None:
    plan = PLANS[tool]
    generator = torch.Generator().manual_seed(0)
    for products in plan.products:
        reason = distrust(products, device)
        if reason:
            print(f"{products} is left out: {reason}", flush=True)
            continue
        for n, d in plan.shapes:
            rows = torch.randn(n, d, generator=generator)
            rows[: n // 4] = rows[:1]  # equal rows overflow the lists and reach the exact scan
            rows = rows.to(device).requires_grad_()
            labels = (torch.arange(n) // 3).to(device)
            for distance in plan.distances:
                with forced(products):
                    loss = fasttriplet.batch_hard_triplet_loss(rows, labels, distance=distance)
                    loss.backward()
                synchronize(device)
                assert loss.isfinite() and rows.grad is not None and rows.grad.isfinite().all()
                print(f"{products}, {shape_name(n, d)}, {distance}: ran", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=PLANS)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    arguments = parser.parse_args()
    run(arguments.tool, arguments.device)


if __name__ == "__main__":
    main()
