"""Float32 products as devices may make them where a global flag allows it: a stand-in for ``torch.mm``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

#: Mantissa bits that are dropped of float32's 23.
TF32, BFLOAT16 = 13, 16


def rounded(values: Tensor, dropped: int) -> Tensor:
    """Float32 numbers rounded to nearest, ties to even, to a shorter mantissa."""
    bits = values.contiguous().view(torch.int32)
    last = (bits >> dropped) & 1
    return ((bits + (1 << dropped - 1) - 1 + last) & -(1 << dropped)).view(torch.float32)


def truncated(values: Tensor) -> Tensor:
    """Float64 numbers cut off to float32 towards zero, as accumulators of tensor cores are."""
    near = values.float()
    return torch.where(near.double().abs() > values.abs(), torch.nextafter(near, torch.zeros_like(near)), near)


def product(dropped: int, seed: int):
    """``torch.mm`` of float32 matrices with inputs rounded, products added one after the other in an order drawn from
    ``seed``, and every sum cut off."""
    exact = torch.mm

    def mm(a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
        if a.dtype != torch.float32:
            return exact(a, b) if out is None else exact(a, b, out=out)
        order = torch.randperm(a.shape[1], generator=torch.Generator().manual_seed(seed))
        x, y = rounded(a, dropped).double()[:, order], rounded(b, dropped).double()[order]
        total = a.new_zeros((a.shape[0], b.shape[1]))
        for k in range(x.shape[1]):
            total = truncated(total.double() + x[:, k, None] * y[k])
        return total if out is None else out.copy_(total)

    return mm


@contextlib.contextmanager
def as_on(monkeypatch: pytest.MonkeyPatch, dropped: int, seed: int = 0) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(torch, "mm", product(dropped, seed))
        yield
