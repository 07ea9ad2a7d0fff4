"""The screen: keys of some anchors to all candidates by one matrix product, and what they prove.

A key orders the candidates of an anchor as the score does, up to a constant of the anchor:

    euclidean and its like   |y|^2 / 2 - x.y
    inner product            -c.y - x.y, of rows less the centre c

The product gives a **lower** bound of it, and ``lower + slack`` is an upper one. Both the error of the product and the
term of y are in the product itself, in columns of their own:

    lower = -x^.y^ - a b + (c1 + c2 + c3) + none,    slack = 2 (a b + s)

where x^, y^ are the rows rounded, a_x b_y = E = kappa n_x n_y bounds the error by ``csrc/core/bound.h``, c1 + c2 + c3
is the term of y less s, and s bounds the roundings that come with that; none is zero, or NONE of an anchor that has no
pairs, as c1 is of a candidate. There are two levels:

    coarse  float32 products of numbers that bfloat16 holds. They are exact in TF32, bfloat16 and float32 alike, so no
            global flag about the precision of products is touched or trusted: what the device makes of it is a sum in
            float32, in whatever order, of exact products.
    fine    float64, which no flag changes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES
from fasttriplet.portable.rows import Frame, Rows, pieces

#: The key of what is no candidate; any other is far below.
NONE = 2.0**100

#: Added to norms, so that what vanishes below float32's range stays inside the bound (core/bound.h).
_TINY = 2.0**-50

#: Numbers that bfloat16 holds, which the term of a candidate is the sum of.
_PARTS = 3

#: Candidates are a multiple of this, so that their keys fall into this many lines of equal length.
LINES = 16


class Candidates(NamedTuple):
    """Rows as columns of the product."""

    matrix: Tensor  # [M, D + 5 or D + 3] y^, b, parts of the term, 1; of float32 or float64
    reach: Tensor  # [M] b, float64
    own: Tensor  # [M] s, float64


class Anchors(NamedTuple):
    """Rows as rows of the product."""

    rounded: Tensor  # [N, D or more] x^ in the first D columns
    reach: Tensor  # [N] a, float64
    none: Tensor  # [N] NONE of an anchor without pairs, else 0; of the dtype of the product
    term: Tensor  # [N] float64, of the whole key but not of those that are screened: half a square, or -c.x
    rounding: Tensor  # [N] float64, of scores, in the units of keys


class Level(NamedTuple):
    """Both sides at one precision."""

    anchors: Anchors
    candidates: Candidates  # at least one more, a multiple of LINES
    depth: int  # D

    def lower(self, some: slice, out: Tensor | None = None) -> Tensor:
        """[C, M] lower bounds of the keys of some anchors, in the first rows of ``out``; more than M columns."""
        rounded = self.anchors.rounded[some, : self.depth]
        rows = rounded.new_ones((len(rounded), self.candidates.matrix.shape[1]))
        torch.neg(rounded, out=rows[:, : self.depth])
        rows[:, self.depth] = -self.anchors.reach[some]
        rows[:, -1] = self.anchors.none[some]
        return torch.mm(rows, self.candidates.matrix.T, out=None if out is None else out[: len(rows)])

    def slack(self, first: Tensor, second: Tensor) -> Tensor:
        """Float64, by which the upper bounds of single pairs lie above the lower ones; indices that broadcast."""
        reach = self.anchors.reach[first] * self.candidates.reach[second]
        return 2 * (reach + self.candidates.own[second] + self.anchors.rounding[first])

    def widest(self, some: slice) -> Tensor:
        """[C, 1] float64: the largest :meth:`slack` of some anchors."""
        reach, own = (each.amax() for each in self.candidates[1:])  # of at least one, which is none
        return 2 * (self.anchors.reach[some] * reach + own + self.anchors.rounding[some])[:, None]

    def upper(self, some: slice, lower: Tensor) -> Tensor:
        """[C, M] float64 upper bounds beside the lower ones."""
        slack = torch.addr(self.candidates.own, self.anchors.reach[some], self.candidates.reach)
        return slack.add_(self.anchors.rounding[some, None]).mul_(2).add_(lower)


def coarse_error(d: int) -> float:
    """Of a sum of coarse products, which are exact, as a share of the sum of their magnitudes.

    Each is cut off or rounded as it is added, in any order (``tensor_core_error`` in core/bound.h).
    """
    return 4 * (d + 2 + _PARTS + 16) * 2.0**-24


def level_of(frame: Frame, rows: Rows, candidates: Rows, distance: int, coarse: bool) -> Level:
    """Of anchors and candidates, which may be one; those that are not usable have the key NONE."""
    d, dtype = rows.wide.shape[1], torch.float32 if coarse else torch.float64
    usable, parts = candidates.usable, _PARTS if coarse else 1
    g = coarse_error(d) if coarse else (d + 19) * 2.0**-52
    product = DISTANCES[distance] == "inner_product"
    theirs = _measured(frame, candidates, coarse, parts, product)
    ours = theirs if candidates is rows else _measured(frame, rows, coarse, 0, product)
    rho = torch.stack([theirs.residual_share(), ours.residual_share()]).amax()
    kappa = (2 * rho + rho * rho + g) / (1 - g)
    scores = (d + 8) * 2.0**-50  # the float64 error of a score, as a share of its terms
    offset: Tensor | float = 0.0
    if product:  # whose scores are of rows with their centre: kappa (n + offset)^2 has room for what those round
        kappa = kappa + 8 * 2.0**-24 if coarse else kappa + scores
        offset = (scores / kappa).sqrt() * frame.centre_norm()

    m, padded = len(candidates.wide), _padded_length(len(candidates.wide))
    matrix, reach = theirs.rounded, theirs.norm + _TINY + offset
    reach = _above(reach, coarse)
    # Three parts are up to 1 + 2^-7 times as large as what they are of.
    own = (g * (1 + 2.0**-7) + 2.0**-22 if coarse else g + 2.0**-50) * theirs.term.abs() + scores * theirs.half_square
    lowered = theirs.term - own
    for part in range(parts):
        rounded = lowered.to(torch.bfloat16).double() if coarse else lowered
        matrix[:m, d + 1 + part] = torch.where(usable, rounded, NONE if part == 0 else 0.0).to(dtype)
        lowered = lowered - rounded
    matrix[:m, d] = torch.where(usable, reach, 0).to(dtype)
    matrix[m:, d + 1] = NONE
    matrix[:, -1] = 1
    columns = Candidates(matrix, *(_padded(torch.where(usable, each, 0), padded) for each in (reach, own)))
    anchors = Anchors(
        ours.rounded,
        _above(kappa * (ours.norm + _TINY + offset), coarse),
        torch.where(rows.usable, 0.0, NONE).to(dtype),
        ours.term,
        scores * ours.half_square,
    )
    return Level(anchors, columns, d)


class _Measured(NamedTuple):
    """Prepared rows rounded, and what was measured of them."""

    rounded: Tensor  # [N or padded, D + more]
    norm: Tensor  # [N] |x^| or a little more
    residual: Tensor  # [N] |x - x^|
    half_square: Tensor  # [N] |x|^2 / 2, by cosine 1/2 more of a zero row
    term: Tensor  # [N] of the key: half a square, or -c.x

    def residual_share(self) -> Tensor:
        shares = self.residual / (self.norm + _TINY)
        return torch.nn.functional.pad(shares, (1, 0)).amax()


def _measured(frame: Frame, rows: Rows, coarse: bool, parts: int, product: bool) -> _Measured:
    """Of candidates, whose ``parts`` are more than 0, padded to lines and with room for parts and two factors."""
    n, d = rows.wide.shape
    shape = (_padded_length(n), d + 2 + parts) if parts else (n, d)
    rounded = rows.wide.new_zeros(shape, dtype=torch.float32 if coarse else torch.float64)
    square, residual, centre_dot = (rows.wide.new_zeros(n) for _ in range(3))
    for some in pieces(rows.wide):
        x = frame.prepared(rows, some)
        square[some] = x.square().sum(1)
        if product:
            centre_dot[some] = (x * (frame.centre * frame.scale)).sum(1)
        if coarse:
            near = x.to(torch.bfloat16)
            rounded[some, :d] = near  # rows beyond n are left alone: x ends there
            residual[some] = x.sub_(near).square().sum(1).sqrt()
        else:
            rounded[some, :d] = x
    half_square = square / 2
    if rows.factors is not None:  # |0 - v|^2 / 2 is 1/2 where the score is 1, and between zero rows 0
        half_square = half_square + torch.where(rows.factors == 0, frame.scale * frame.scale / 2, 0)
    norm = square.sqrt() * (1 + 2.0**-40) + residual
    return _Measured(rounded, norm, residual, half_square, -centre_dot if product else half_square)


def _above(values: Tensor, coarse: bool) -> Tensor:
    """Not below ``values``, and where coarse numbers that bfloat16 holds."""
    return (values * (1 + 2.0**-7)).to(torch.bfloat16).double() if coarse else values


def _padded_length(m: int) -> int:
    """Of candidates: at least one more, and full lines."""
    return (m // LINES + 1) * LINES


def _padded(values: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, length - len(values)))
