"""Rows as the portable engine takes them: which are finite, their normalising factors, a centre and a scale for all.

What preparing means, and why it changes no answer, is in ``csrc/core/prepare.h``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES
from fasttriplet.pairing import finite_rows
from fasttriplet.portable.exact import at_once, root, square_sum

#: Rows whose medians make a centre.
_SAMPLES = 9


class Rows(NamedTuple):
    """Rows [N, D] as scores are made of them."""

    wide: Tensor  # [N, D] float64, by cosine normalised
    finite: Tensor  # [N] bool
    usable: Tensor  # [N] bool: finite, and neither ignored nor masked; nothing of others has a say in anything
    factors: Tensor | None  # [N] float64, 1 / |x|, 0 of a zero row; by cosine alone


class Frame(NamedTuple):
    """What is common to all rows that are multiplied with each other."""

    centre: Tensor  # [D] float64, of normalised rows by cosine
    scale: Tensor  # [] float64, a power of two, or 0 where no screen can be trusted

    def centre_norm(self) -> Tensor:
        """[] of the scaled centre."""
        return (self.centre * self.scale).square().sum().sqrt()

    def prepared(self, rows: Rows, some: slice) -> Tensor:
        """Rows less the centre and scaled, float64; those that take no part are zero, and without a scale all."""
        values = (rows.wide[some] - self.centre).mul_(self.scale)
        return values.masked_fill_(~rows.usable[some, None] | (self.scale == 0), 0)


def pieces(rows: Tensor) -> list[slice]:
    """Of rows [N, D], as many at a time as copies are made of."""
    n, step = len(rows), at_once(rows)
    return [slice(first, min(first + step, n)) for first in range(0, n, step)]


def survey(values: Tensor, distance: int) -> Rows:
    """What must be known of rows [N, D] before they are compared."""
    finite = values.new_ones(len(values), dtype=torch.bool)
    if values.shape[1]:
        finite = finite_rows(values)
    wide = values.to(torch.float64, memory_format=torch.contiguous_format)
    if DISTANCES[distance] != "cosine":
        return Rows(wide, finite, finite, None)
    factors = [_normalising_factors(wide[some], finite[some], values.dtype) for some in pieces(wide)]
    factor = torch.cat(factors) if factors else wide.new_zeros(0)
    return Rows(wide * factor[:, None], finite, finite, factor)


def _normalising_factors(wide: Tensor, finite: Tensor, dtype: torch.dtype) -> Tensor:
    """1 / |x|, or 0 where |x| is below the smallest normal number; where squares leave float64 of scaled rows."""
    rows = torch.where(finite[:, None], wide, 0)
    largest = torch.nn.functional.pad(rows.abs(), (1, 0)).amax(1)  # a zero more, for D = 0
    factors = root(square_sum(rows)).reciprocal()
    factors = torch.where(largest > 0, factors, 0)
    if dtype != torch.float64:  # whose squares stay inside its range
        return factors
    usual = (largest > 1e-140) & (largest < 1e140)
    if (usual | (largest == 0)).all():  # a wait, where rows are float64
        return factors
    exponent = torch.frexp(largest).exponent - 1
    squares = scaled(rows, -exponent[:, None]).square()
    # On a CPU one after the other, as the kernels' rare way; elsewhere that is refused in deterministic mode.
    norm = root(squares.cumsum(1)[:, -1] if rows.device.type == "cpu" else squares.sum(1))
    of_scaled = scaled(norm.reciprocal(), -exponent)
    tiny = scaled(norm, exponent) < torch.finfo(torch.float64).tiny
    return torch.where(usual, factors, torch.where(tiny | (largest == 0), 0, of_scaled))


def scaled(values: Tensor, exponent: Tensor) -> Tensor:
    """``values`` float64 times 2^exponent, of exponents down to -1100 and up to 1100: in two steps, each in range."""
    half = torch.div(exponent, 2, rounding_mode="floor")
    return values * _power_of_two(half) * _power_of_two(exponent - half)


def _power_of_two(exponent: Tensor) -> Tensor:
    """Exactly, by its bits; ``torch.ldexp`` goes through float32."""
    return (exponent.long() + 1023 << 52).view(torch.float64)


def frame_of(rows: Rows, candidates: Rows) -> Frame:
    """Of the batch and the references, which may be the same."""
    both = [rows] if candidates is rows else [rows, candidates]
    samples = torch.cat([_samples(each, _SAMPLES if len(both) == 1 else 3 * (2 - at)) for at, each in enumerate(both)])
    centre = _centre_of(samples) if len(samples) == _SAMPLES else samples.new_zeros(samples.shape[1])
    largest = (
        torch.stack([_largest(each) for each in both]).amax() + torch.nn.functional.pad(centre.abs(), (1, 0)).amax()
    )
    usable = (largest >= 2.0**-400) & (largest <= 2.0**400)
    scale = _power_of_two(-torch.frexp(torch.where(usable, largest, 1)).exponent)
    return Frame(centre, torch.where(usable, scale, torch.where(largest == 0, 1.0, 0.0)))


def _samples(rows: Rows, count: int) -> Tensor:
    """[count, D] evenly spread rows; a row that takes no part is zero."""
    n = len(rows.wide)
    if n == 0:
        return rows.wide
    at = (2 * torch.arange(count, device=rows.wide.device) + 1) * n // (2 * count)
    return torch.where(rows.usable[at, None], rows.wide[at], 0)


def _centre_of(samples: Tensor) -> Tensor:
    """[D], entry by entry the median of three medians of three; zero where that does not halve most norms."""
    centre = _median_of_three(*(_median_of_three(*samples[first : first + 3]) for first in (0, 3, 6)))
    halved = (samples - centre).square().sum(1) <= samples.square().sum(1) / 4
    return torch.where(2 * halved.sum() >= _SAMPLES, centre, 0)


def _median_of_three(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Entry by entry; ``torch.median`` is refused on CUDA in deterministic mode."""
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def _largest(rows: Rows) -> Tensor:
    """[] float64: the largest magnitude of an entry."""
    if rows.wide.numel() == 0:
        return rows.wide.new_zeros(())
    largest = torch.maximum(rows.wide.amax(1), -rows.wide.amin(1))
    return torch.where(rows.usable, largest, 0).amax()
