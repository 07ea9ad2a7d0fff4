"""The portable engine's pairs do not depend on what a device makes of float32 products: TF32, bfloat16, other sums."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fasttriplet
from fasttriplet import engines
from fasttriplet.check import DISTANCES
from fasttriplet.portable import screen
from tests import engine

if engine.ENGINE != "cpu":
    pytest.skip("compares with the CPU's kernels", allow_module_level=True)

MINERS = {"batch_hard": fasttriplet.mine_batch_hard, "easy_positive": fasttriplet.mine_easy_positive}
N, D = 200, 48
LABELS = torch.arange(N) // 4
PRODUCT = torch.mm


def batches() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(N, D, generator=generator)
    return {
        "random": rows,
        "offset": rows + 100,
        "decades": rows * 10 ** torch.linspace(-3, 3, N)[:, None],
        "near": 1 + rows * 1e-3,
    }


def tf32(values: Tensor) -> Tensor:
    """Ten bits of mantissa, cut off."""
    return (values.view(torch.int32) & ~0x1FFF).view(torch.float32)


def bfloat16(values: Tensor) -> Tensor:
    return values.bfloat16().float()


def by(rounded: Callable[[Tensor], Tensor], used: list[bool]) -> Callable[..., Tensor]:
    """A product in float32 of rounded numbers, wrong by what a sum of cut-off terms may be; of float64 it is exact."""

    def product(a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
        if a.dtype == torch.float64:
            return PRODUCT(a, b, out=out)
        used.append(True)
        a, b = rounded(a.contiguous()), rounded(b.contiguous())
        usual = b[D + 1] < screen.NONE / 2  # what stands for no candidate has no error to make
        sums = PRODUCT(a, b)
        # Three sixteenths of the error that is allowed for, of the terms of pairs alone.
        size = PRODUCT(a.abs(), b.abs()) * (0.75 * (len(b) + 16) * 2.0**-24)
        signs = torch.where(torch.arange(sums.numel()).view(sums.shape) * 7919 % 3 > 0, 1.0, -1.0)
        sums += torch.where(usual, signs * size, 0)
        return sums if out is None else out.copy_(sums)

    return product


def pairs(miner: Callable[..., tuple[Tensor, ...]], rows: Tensor, distance: str) -> list[Tensor]:
    return [each.nan_to_num(7) for each in miner(rows, LABELS, distance=distance)]


@pytest.mark.parametrize("rounded", [tf32, bfloat16])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("miner", MINERS)
def test_pairs_are_the_kernels(miner, distance, rounded, monkeypatch):
    for name, rows in batches().items():
        kernels = pairs(MINERS[miner], rows, distance)
        used: list[bool] = []
        with monkeypatch.context() as patch:
            patch.setattr(engines, "forced", True)
            patch.setattr(torch, "mm", by(rounded, used))
            portable = pairs(MINERS[miner], rows, distance)
        assert used, name
        assert all(map(torch.equal, portable, kernels)), name


def test_rows_that_are_not_rounded_are_noticed(monkeypatch):
    """The control: float32 rows as they are, whose product in TF32 is another one."""
    right = screen._measured

    def as_they_are(frame, rows, coarse, parts, product):
        found = right(frame, rows, coarse, parts, product)
        if not coarse:
            return found
        n, d = rows.wide.shape
        found.rounded[:n, :d] = frame.prepared(rows, slice(0, n)).float()
        return found._replace(residual=found.residual * 2.0**-16)

    monkeypatch.setattr(engines, "forced", True)
    monkeypatch.setattr(screen, "_measured", as_they_are)
    rows = batches()["random"]
    found = pairs(fasttriplet.mine_batch_hard, rows, "euclidean")
    monkeypatch.setattr(torch, "mm", by(bfloat16, []))
    assert not all(map(torch.equal, pairs(fasttriplet.mine_batch_hard, rows, "euclidean"), found))


def test_no_flag_is_touched(monkeypatch):
    before = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32
    monkeypatch.setattr(engines, "forced", True)
    rows = batches()["random"].requires_grad_()
    torch.set_float32_matmul_precision("medium")
    try:
        fasttriplet.batch_hard_triplet_loss(rows, LABELS).backward()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before[0])
    assert (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32) == before
