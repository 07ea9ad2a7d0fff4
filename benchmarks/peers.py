"""The same loss as others compute it, each with the [N, N] matrix it builds: euclidean, margin 0.3, mean of all.

Formulas are written from their publications; ``pytorch-metric-learning`` is itself called where it is installed. All
want every anchor to have a positive and a negative. In float32 none of them is exact (near ties and far-off rows).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

MARGIN = 0.3
Peer = Callable[[Tensor, Tensor], Tensor]


def gather(rows: Tensor, labels: Tensor) -> Tensor:
    """The strongest plain-PyTorch form: mine without a graph on a BLAS matrix, differentiate the chosen pairs."""
    with torch.no_grad():
        norms = rows.square().sum(1)
        squared = torch.addmm(norms[:, None] + norms, rows, rows.T, alpha=-2)
        same = labels[:, None] == labels
        negatives = squared.masked_fill(same, torch.inf).argmin(1)
        positives = squared.masked_fill(~same, -torch.inf).fill_diagonal_(-torch.inf).argmax(1)
    ap = (rows - rows[positives]).norm(dim=1)
    an = (rows - rows[negatives]).norm(dim=1)
    return torch.relu(ap - an + MARGIN).mean()


def masks(rows: Tensor, labels: Tensor) -> Tensor:
    """Masks over ``torch.cdist``, differentiated as written."""
    distances = torch.cdist(rows, rows)
    same = labels[:, None] == labels
    ap = distances.masked_fill(~same, 0).amax(1)
    an = distances.masked_fill(same, torch.inf).amin(1)
    return torch.relu(ap - an + MARGIN).mean()


def sentence_transformers_formula(rows: Tensor, labels: Tensor) -> Tensor:
    """As sentence-transformers' batch-hard loss: a matrix of dot products, float masks, the row maximum added."""
    dots = rows @ rows.T
    squares = dots.diagonal()
    squared = (squares[:, None] - 2 * dots + squares).clamp_min(0)
    zero = (squared == 0).to(rows.dtype)
    distances = (1 - zero) * (squared + zero * 1e-16).sqrt()
    same = labels[:, None] == labels
    positive = (same & ~torch.eye(len(labels), dtype=torch.bool)).to(rows.dtype)
    hardest_positive = (positive * distances).amax(1, keepdim=True)
    largest = distances.amax(1, keepdim=True)
    hardest_negative = (distances + largest * same.to(rows.dtype)).amin(1, keepdim=True)
    return torch.relu(hardest_positive - hardest_negative + MARGIN).mean()


def pytorch_metric_learning() -> Peer | None:
    """Its ``BatchHardMiner`` and ``TripletMarginLoss``, averaged over all triplets; None where it is not installed."""
    if importlib.util.find_spec("pytorch_metric_learning") is None:
        return None
    from pytorch_metric_learning import distances, losses, miners, reducers

    metric = distances.LpDistance(normalize_embeddings=False)
    miner = miners.BatchHardMiner(distance=metric)
    loss = losses.TripletMarginLoss(margin=MARGIN, distance=metric, reducer=reducers.MeanReducer())
    return lambda rows, labels: loss(rows, labels, miner(rows, labels))


def available() -> dict[str, Peer]:
    """Peers by name, fastest first."""
    peers: dict[str, Peer] = {"gather": gather, "masks": masks, "sentence-transformers": sentence_transformers_formula}
    installed = pytorch_metric_learning()
    if installed is not None:
        peers["pytorch-metric-learning"] = installed
    return peers
