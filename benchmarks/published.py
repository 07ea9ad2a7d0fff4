"""Formulas of libraries that cannot be installed beside PyTorch here, from their sources, on matrices, in any dtype.

TensorFlow Addons 0.23 ``losses/triplet.py`` and ``losses/metric_learning.py``; torchreid 0.2.5
``losses/hard_mine_triplet_loss.py``; fast-reid 1.4 ``modeling/losses/triplet_loss.py``; open-metric-learning 4.0
``losses/triplet.py`` and ``miners``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _squared(rows: Tensor) -> Tensor:
    norms = rows.square().sum(1)
    return norms[:, None] + norms - 2 * rows @ rows.T


def tfa_distances(rows: Tensor, metric: str) -> Tensor:
    if metric == "angular":
        unit = rows * rows.square().sum(1, keepdim=True).clamp_min(1e-12).rsqrt()
        return (1 - unit @ unit.T).clamp_min(0)
    squared = _squared(rows).clamp_min(0)
    zero = (squared <= 0).to(rows.dtype)
    distances = squared if metric == "squared-L2" else (squared + zero * 1e-16).sqrt()
    return distances * (1 - zero) * (1 - torch.eye(len(rows), dtype=rows.dtype))


def _masked_maximum(data: Tensor, mask: Tensor) -> Tensor:
    lowest = data.amin(1, keepdim=True)
    return ((data - lowest) * mask).amax(1, keepdim=True) + lowest


def _masked_minimum(data: Tensor, mask: Tensor) -> Tensor:
    highest = data.amax(1, keepdim=True)
    return ((data - highest) * mask).amin(1, keepdim=True) + highest


def tfa_hard(labels: Tensor, rows: Tensor, margin: float, soft: bool, metric: str) -> Tensor:
    distances = tfa_distances(rows, metric)
    same = labels[:, None] == labels
    negatives = _masked_minimum(distances, (~same).to(rows.dtype))
    positives = _masked_maximum(distances, same.to(rows.dtype) - torch.eye(len(rows), dtype=rows.dtype))
    if soft:
        return (positives - negatives).exp().log1p().mean()
    return (positives - negatives + margin).clamp_min(0).mean()


def tfa_semihard(labels: Tensor, rows: Tensor, margin: float, metric: str) -> Tensor:
    distances = tfa_distances(rows, metric)
    count = len(rows)
    same = labels[:, None] == labels
    tiled = distances.repeat(count, 1)  # row p * N + a: distances of a, to be compared with d(a, p)
    mask = (~same).repeat(count, 1) & (tiled > distances.T.reshape(-1, 1))
    found = mask.any(1).reshape(count, count).T
    outside = _masked_minimum(tiled, mask.to(rows.dtype)).reshape(count, count).T
    inside = _masked_maximum(distances, (~same).to(rows.dtype)).expand(count, count)
    losses = distances - torch.where(found, outside, inside) + margin
    positive = same.to(rows.dtype) - torch.eye(count, dtype=rows.dtype)
    return (losses * positive).clamp_min(0).sum() / positive.sum()


def torchreid(rows: Tensor, labels: Tensor, margin: float) -> Tensor:
    distances = _squared(rows).clamp(min=1e-12).sqrt()
    same = labels[:, None] == labels
    nearby = torch.stack([row[mask].max() for row, mask in zip(distances, same, strict=True)])
    apart = torch.stack([row[~mask].min() for row, mask in zip(distances, same, strict=True)])
    return torch.nn.functional.margin_ranking_loss(apart, nearby, torch.ones_like(apart), margin=margin)


def _weights(distances: Tensor, mask: Tensor) -> Tensor:
    shifted = (distances - (distances * mask).amax(1, keepdim=True)).exp() * mask
    return shifted / (shifted.sum(1, keepdim=True) + 1e-6)


def fastreid(rows: Tensor, labels: Tensor, margin: float, norm_feat: bool, hard_mining: bool = True) -> Tensor:
    if norm_feat:
        unit = torch.nn.functional.normalize(rows, dim=1)
        distances = 2 - 2 * unit @ unit.T
    else:
        distances = _squared(rows).clamp(min=1e-12).sqrt()
    same = (labels[:, None] == labels).to(rows.dtype)
    if hard_mining:
        nearby = (distances * same).max(1).values
        apart = (distances * (1 - same) + same * 1e9).min(1).values
    else:
        nearby, apart = distances * same, distances * (1 - same)
        nearby, apart = (nearby * _weights(nearby, same)).sum(1), (apart * _weights(-apart, 1 - same)).sum(1)
    if margin > 0:
        return torch.nn.functional.margin_ranking_loss(apart, nearby, torch.ones_like(apart), margin=margin)
    return torch.nn.functional.soft_margin_loss(apart - nearby, torch.ones_like(apart))


Triplets = tuple[Tensor, Tensor, Tensor]  # anchors, positives and negatives, [T] each


def oml_hard(rows: Tensor, labels: Tensor) -> Triplets:
    """Of its ``HardTripletsMiner``: the anchor itself is a candidate for the positive."""
    distances, same = torch.cdist(rows, rows), labels[:, None] == labels
    positives = distances.masked_fill(~same, -torch.inf).argmax(1)
    return torch.arange(len(rows)), positives, distances.masked_fill(same, torch.inf).argmin(1)


def oml_all(labels: Tensor) -> Triplets:
    """Of its ``AllTripletsMiner``, in another order."""
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool)
    anchors, positives, negatives = (positive[:, :, None] & ~same[:, None, :]).nonzero().unbind(1)
    return anchors, positives, negatives


def oml_n_hard(rows: Tensor, labels: Tensor, n_positive: slice, n_negative: slice, anchors: int) -> Triplets:
    """Of its ``NHardTripletsMiner``: of each of the first ``anchors`` rows the positives by distance descending and the
    negatives ascending, cut by those slices, each with each."""
    distances, found = torch.cdist(rows, rows), []
    for anchor in range(anchors):
        order = distances[anchor].argsort(descending=True)
        order = order[order != anchor]
        same = labels[order] == labels[anchor]
        pairs = torch.cartesian_prod(order[same][n_positive], order[~same].flip(0)[n_negative])
        found.append(torch.cat([torch.full((len(pairs), 1), anchor), pairs], 1))
    anchor_ids, positives, negatives = torch.cat(found).unbind(1)
    return anchor_ids, positives, negatives


def oml_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float | None, reduction: str) -> Tensor:
    """Of its ``TripletLoss``; without a margin it is the soft one."""
    difference = (anchor - positive).norm(dim=1) - (anchor - negative).norm(dim=1)
    losses = difference.exp().log1p() if margin is None else (margin + difference).relu()
    return {"mean": losses.mean(), "sum": losses.sum(), "none": losses}[reduction]
