"""A few steps of one size and nothing else, for a profiler: ``ncu python -m benchmarks.gpu.one_size NxD``."""

from __future__ import annotations

import argparse

import torch

import fasttriplet
from benchmarks.cases import size, step
from benchmarks.gpu.device import batch, synchronize

STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", type=size, metavar="NxD")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    arguments = parser.parse_args()
    n, d = arguments.size
    run = step(fasttriplet.batch_hard_triplet_loss, *batch(n, d, arguments.device))
    for _ in range(STEPS):
        run()
    synchronize(arguments.device)


if __name__ == "__main__":
    main()
