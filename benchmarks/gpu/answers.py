"""Pairs, distances, loss and gradient by one kind of products against the CPU's, a line a case as it goes.

``python -m benchmarks.gpu.answers float|tensor|wgmma|wgmma-pair``: a process a kind, since what one breaks
on a GPU is broken for the rest of its process.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from benchmarks.cases import MARGIN, shape_name
from benchmarks.gpu import LEFT_OUT, products
from benchmarks.gpu.device import name_of
from fasttriplet.check import DISTANCES, REDUCTIONS
from tests import engine


class Operators(Protocol):
    """The three operators: of the CPU, of a GPU, or of the shim; tensors are on the CPU before and after."""

    def mine_batch_hard(self, rows: Tensor, labels: Tensor, distance: int) -> tuple[Tensor, ...]: ...
    def batch_hard_loss(
        self, rows: Tensor, labels: Tensor, margin: float, distance: int, soft: bool, reduction: int, on_missing: int
    ) -> tuple[Tensor, ...]: ...
    def _batch_hard_loss_backward(
        self, grad_loss: Tensor, rows: Tensor, values: Tensor, pairs: Tensor, distance: int
    ) -> Tensor: ...


class Case(NamedTuple):
    n: int
    d: int
    dtype: torch.dtype = torch.float32
    ties: bool = False  # whole numbers, whose distances are often equal

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{shape_name(self.n, self.d)} {name}{' with ties' if self.ties else ''}"

    def batch(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.n)
        rows = torch.randn(self.n, self.d, generator=generator, dtype=self.dtype)
        labels = torch.randperm(self.n, generator=generator) // 4
        return (2 * rows).round() if self.ties else rows, labels


CASES = (Case(64, 8), Case(300, 70, torch.float64), Case(2500, 8, ties=True), Case(5000, 96), Case(20000, 64))
#: Those that the shim answers in seconds.
TRIAL = (Case(64, 8), Case(100, 20, torch.float64), Case(150, 8, ties=True))


class Answer(NamedTuple):
    positives: Tensor
    negatives: Tensor
    distances: Tensor  # [2, N]
    loss: Tensor
    gradient: Tensor


def answer(operators: Operators, rows: Tensor, labels: Tensor, distance: int) -> Answer:
    distances, positives, negatives = operators.mine_batch_hard(rows, labels, distance)
    loss, values, pairs = operators.batch_hard_loss(rows, labels, MARGIN, distance, False, REDUCTIONS.index("mean"), 0)
    gradient = operators._batch_hard_loss_backward(torch.ones_like(loss), rows, values, pairs, distance)
    return Answer(positives, negatives, distances, loss, gradient)


def differences(found: Answer, expected: Answer) -> list[str]:
    """What is not as it must be: pairs and distances to the bit, loss and gradient but for the order of their sums."""
    wrong = []
    for name in ("positives", "negatives"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        anchors = (ours != theirs).nonzero().flatten()
        if len(anchors):
            first = int(anchors[0])
            wrong.append(
                f"{len(anchors)} of {len(ours)} {name} differ, the first at anchor {first}: {int(ours[first])} where "
                f"the CPU has {int(theirs[first])}"
            )
    if not torch.equal(found.distances.nan_to_num(-1), expected.distances.nan_to_num(-1)):
        furthest = (found.distances - expected.distances).abs().nan_to_num(torch.inf).max().item()
        wrong.append(f"distances differ by up to {furthest:.3g}")
    single = found.gradient.dtype == torch.float32
    for name, relative, absolute in (
        ("loss", 1e-6 if single else 1e-12, 0.0),
        ("gradient", 1e-5 if single else 1e-12, 1e-9 if single else 1e-12),
    ):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if not torch.allclose(ours, theirs, rtol=relative, atol=absolute, equal_nan=True):
            wrong.append(f"the {name} differs by up to {(ours - theirs).abs().max().item():.3g}")
    return wrong


def compare(device: torch.device, kind: str) -> int:
    """How many cases failed; each is printed when it is done."""
    ours: Operators = engine.CudaEngine() if device.type == "cuda" else engine.ShimEngine()
    name = name_of(device) if device.type == "cuda" else "the shim"
    failed = 0
    for case in CASES if device.type == "cuda" else TRIAL:
        rows, labels = case.batch()
        for code, distance in enumerate(DISTANCES):
            expected = answer(torch.ops.fasttriplet, rows, labels, code)
            with products.forced(kind):
                wrong = differences(answer(ours, rows, labels, code), expected)
            failed += bool(wrong)
            verdict = f"FAILED: {'; '.join(wrong)}" if wrong else "as the CPU"
            print(f"{name}, {kind}, {case}, {distance}: {verdict}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("products", choices=products.PRODUCTS)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    arguments = parser.parse_args()
    kind, device = arguments.products, arguments.device
    missing = products.lacking(kind, device)
    if missing:
        print(missing)
        return LEFT_OUT
    wrong = products.distrust(kind, device)
    try:
        print(products.share(kind, device), flush=True)
    except RuntimeError as error:
        wrong = wrong or str(error)
    if wrong:
        print(f"{kind} is not trusted: {wrong}")
        return 1
    return 1 if compare(device, kind) else 0


if __name__ == "__main__":
    raise SystemExit(main())
