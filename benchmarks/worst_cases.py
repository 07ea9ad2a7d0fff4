"""Batches that are hard for a screen, each verified on a sample of anchors, as a ratio to ``torch.mm`` of random rows.

``python -m benchmarks.worst_cases [NxD]``, by default 4096x128.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import fasttriplet
from benchmarks.cases import OURS, YARDSTICK, shape_name, size, step, verify
from benchmarks.measure import in_turn, machine, table

INNER = "inner_product"


def batches(n: int, d: int) -> dict[str, tuple[Tensor, Tensor, str]]:
    """Embeddings, labels and distance by name."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n, d, generator=generator)
    unit = torch.nn.functional.normalize(noise, dim=1)
    index, fours = torch.arange(n), torch.arange(n) // 4
    ends = torch.stack([-unit[0], unit[0]])[index % 2]
    outlier = torch.where(index[:, None] == 7, 1e6, 1.0) * unit
    return {
        "random unit vectors": (unit, fours, "euclidean"),
        "all rows equal": (unit[:1].expand(n, d).contiguous(), fours, "euclidean"),
        "two distinct values": (unit[index % 2], fours, "euclidean"),
        "offset 1e4": (noise + 1e4, fours, "euclidean"),
        "offset 1e4, inner product": (noise + 1e4, fours, INNER),
        "norms over six decades": (unit * torch.logspace(-3, 3, n)[:, None], fours, "euclidean"),
        "one class": (unit, torch.zeros_like(index), "euclidean"),
        "all classes distinct": (unit, index, "euclidean"),
        "one class of half the batch": (unit, index.clamp_min(n // 2), "euclidean"),
        "64 per class": (unit, index // 64, "euclidean"),
        "tight classes of 4": (unit[fours] + 1e-3 * noise, fours, "euclidean"),
        "tight classes of 64": (unit[index // 64] + 1e-3 * noise, index // 64, "euclidean"),
        "collapsed": (unit[:1] + 1e-3 * noise, fours, "euclidean"),
        "one-hot rows of several lengths": (torch.eye(d)[index % d] * (1 + index[:, None] // d), fours, "euclidean"),
        "two tight far clusters, a class each": (ends + 1e-3 * noise, index % 2, "euclidean"),
        "two tight far clusters, classes of 4": (ends + 1e-3 * noise, fours, "euclidean"),
        "one row a million times longer, inner product": (outlier, fours, INNER),
    }


def worst_cases_table(n: int, d: int, rounds: int = 3) -> str:
    cases = batches(n, d)
    plain = cases["random unit vectors"][0].clone()
    rows = []
    for name, (embeddings, labels, distance) in cases.items():
        leaf = embeddings.clone().requires_grad_()
        verify(leaf, labels, distance)
        run = step(fasttriplet.batch_hard_triplet_loss, leaf, labels, distance=distance)
        timings = in_turn({YARDSTICK: lambda: torch.mm(plain, plain.T), OURS: run}, rounds)
        rows.append([name, str(timings[OURS].ratio(timings[YARDSTICK]))])
    return table(["batch", f"{OURS} / {YARDSTICK}"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", type=size, nargs="?", metavar="NxD", default=(4096, 128))
    shape = parser.parse_args().size
    tier = fasttriplet.build_info()["tier"]
    print(f"{machine()}, tier {tier}; {shape_name(*shape)}, forward + backward, 3 rounds in turn\n")
    print(worst_cases_table(*shape))


if __name__ == "__main__":
    main()
