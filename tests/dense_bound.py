"""The bound of docs/numerics.md on losses over all pairs and their gradients, for a batch that is its own candidates.

Everything is [N, N] or [N, N, N] in float64, for small batches. Names are those of the page: E, K, A, p, R.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fasttriplet import reference
from fasttriplet.check import DISTANCES
from fasttriplet.portable.rows import frame_of, survey

U = 2.0**-24


@dataclass(frozen=True)
class Quality:
    """What a distance and a sum are good to.

    ``near``: pairs nearer than this share of their terms are scored; ``few``: and so are, by the weighted loss, all
    positives of an anchor that has no more of them, itself among them; ``few_of_hinge``: likewise by batch-all with a
    margin, where no anchor has more.
    """

    K: float
    A: float
    near: float
    both_terms: bool  # whether the terms of both rows count for near, or the anchor's alone
    few: float = math.inf
    few_of_hinge: float = math.inf

    @classmethod
    def of_float32_kernels(cls, n: int, d: int) -> Quality:
        return cls((d + 40) * U, (2 * min(n, 256) + 64) * U, 2.0**-12, True, 48, 16)

    @classmethod
    def of_float64(cls, n: int, d: int) -> Quality:
        return cls((d + 16) * 2.0**-49, (2 * n + 64) * 2.0**-51, 2.0**-22, False)

    def times(self, k: float, a: float) -> Quality:
        return Quality(self.K * k, self.A * a, self.near, self.both_terms, self.few, self.few_of_hinge)


@dataclass
class Bound:
    loss: Tensor  # [] of the sum
    gradient: Tensor  # [N] of the norm of each row's


class Batch:
    """Exact distances, and by how much those of an engine may be wrong."""

    def __init__(self, rows: Tensor, labels: Tensor, distance: str, quality: Quality) -> None:
        self.quality, self.distance = quality, distance
        x = rows.double()
        n, d = x.shape
        same = labels[:, None] == labels
        self.positive, self.negative = same & ~torch.eye(n, dtype=torch.bool), ~same
        self.many = self.positive & (same.sum(1, keepdim=True) > quality.few)
        self.d = reference.pairwise_distances(x, distance)
        exact = Quality.of_float64(n, d)
        prepared = survey(rows, DISTANCES.index(distance))
        c = frame_of(prepared, prepared).centre
        p = (prepared.wide - c).norm(dim=1)
        self.pair = p[:, None] + p  # |x - c| + |y - c|
        squares = p[:, None].square() + p.square()
        E = quality.K * squares
        self.factor = 1 / x.norm(dim=1) if distance == "cosine" else torch.ones(n, dtype=torch.float64)
        d2 = {"euclidean": self.d.square(), "squared_euclidean": self.d, "cosine": 2 * self.d}.get(distance)
        if d2 is None:  # inner product
            reach = p.max() + c.norm()
            self.error = quality.K * self.pair * reach + 2 * exact.K * c.norm() * reach
            self.size = (self.d + c.square().sum()).abs() + exact.A / quality.A * self.d.abs()
            self.pull, self.slope = x.norm(dim=1)[None] + 0 * self.d, self.pair + c.norm()
            self.lost = torch.zeros_like(self.d)
            return
        terms = squares if quality.both_terms else p[:, None].square() + 0 * squares
        scored = d2 + E <= quality.near * terms
        E = torch.where(scored, quality.A * d2, E)
        safe = self.d.clamp_min(1e-300)
        self.size = self.d
        if distance == "euclidean":
            self.error = torch.where(self.d > 0, E / safe, 0)
            unsure = (self.d - self.error).clamp_min(0)
            self.lost = torch.where(self.d > 0, self.error / unsure, 0)  # of |x - y| / d
            self.pull, self.slope = torch.ones_like(self.d), torch.where(self.d > 0, self.pair / safe, 0)
        elif distance == "squared_euclidean":
            self.error, self.lost = E, torch.zeros_like(self.d)
            self.pull, self.slope = 2 * self.d.sqrt(), 2 * self.pair
        else:
            self.error = self.lost = E / 2
            self.pull, self.slope = (2 * self.d).sqrt() + self.d, self.pair + self.d + 1

    def gradient(self, slopes: Tensor, errors: Tensor, keyed: Tensor) -> Tensor:
        """[N] of slopes [N, N] by anchor and candidate, positives' and negatives', that are wrong by ``errors``.

        ``keyed`` [N, N]: which distances are made of keys.
        """
        slopes, lost = slopes.abs(), torch.where(keyed, self.lost, 0)

        def share(pull: Tensor) -> Tensor:
            each = errors * pull + slopes * (lost + self.quality.A * (self.slope + pull))
            return torch.where(self.positive | self.negative, each, 0)

        return self.factor * (share(self.pull).sum(1) + share(self.pull.T).sum(0))


def batch_all(batch: Batch, margin: float, soft_margin: bool) -> Bound:
    """Of the sum of all triplets' losses."""
    A, d, size = batch.quality.A, batch.d, batch.size
    there = batch.positive[:, :, None] & batch.negative[:, None, :]  # [anchor, positive, negative]
    constant = 1.0 if soft_margin else abs(margin)
    many = not soft_margin and int(batch.positive.sum(1).max()) > batch.quality.few_of_hinge
    keyed = batch.negative | batch.positive if many else batch.negative
    error = torch.where(keyed, batch.error, 0)
    each = error[:, :, None] + error[:, None, :] + A * (size[:, :, None] + size[:, None, :] + constant)
    difference = d[:, :, None] - d[:, None, :]
    if soft_margin:
        slopes, errors = difference.sigmoid(), each / 4
    else:
        there = there & (difference + margin > 0)
        slopes, errors = torch.ones_like(difference), torch.zeros_like(each)
    slopes, errors, each = (torch.where(there, value, 0) for value in (slopes, errors, each))
    slopes, errors = slopes.sum(1) + slopes.sum(2), errors.sum(1) + errors.sum(2)
    return Bound(each.sum(), batch.gradient(slopes, errors, keyed))


def weighted(batch: Batch, margin: float, soft_margin: bool) -> Bound:
    """Of the sum of all anchors' losses; every anchor has a positive and a negative."""
    A, d, keyed = batch.quality.A, batch.d, batch.negative | batch.many
    means, slopes, errors, mean_errors = [], [], [], []
    for sign, there in ((1, batch.positive), (-1, batch.negative)):
        w = torch.where(there, sign * d, -torch.inf).softmax(1)
        each = A * (batch.size + 1) + torch.where(keyed, batch.error, 0)
        worst = torch.where(there, each, 0).amax(1, keepdim=True)
        mean = (w * d).sum(1, keepdim=True)
        off = (d - mean).abs()
        grown = torch.expm1(2 * worst)
        error = worst + grown * (w * off).sum(1, keepdim=True)
        means.append(mean[:, 0])
        mean_errors.append(error[:, 0])
        slopes.append(w * (1 + sign * (d - mean)))
        errors.append(w * (grown * (1 + off) + (grown + 1) * (each + error)))
    difference = means[0] - means[1] + (0 if soft_margin else margin)
    error = mean_errors[0] + mean_errors[1]
    if soft_margin:
        upstream, of_upstream = difference.sigmoid(), error / 4
    else:
        upstream, of_upstream = (difference > 0).double(), (difference.abs() <= error).double()
    wrong = [upstream[:, None] * e + of_upstream[:, None] * (s.abs() + e) for s, e in zip(slopes, errors, strict=True)]
    loss = torch.where((difference > -error) | soft_margin, error + A * difference.abs(), 0)
    return Bound(loss.sum(), batch.gradient(upstream[:, None] * (slopes[0] - slopes[1]), wrong[0] + wrong[1], keyed))
