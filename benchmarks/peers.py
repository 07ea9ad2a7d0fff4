"""The same loss as others compute it: euclidean, margin 0.3, mean of all.

Formulas are written from their publications; ``pytorch-metric-learning`` and KeOps are themselves called where they are
installed. All want every anchor to have a positive and a negative. In float32 none of them is exact (near ties and
far-off rows). All but KeOps build [N, N] matrices.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.cases import MARGIN
from fasttriplet import reference

Peer = Callable[[Tensor, Tensor], Tensor]


def loss_of_pairs(rows: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    ap = (rows - rows[positives]).norm(dim=1)
    an = (rows - rows[negatives]).norm(dim=1)
    return torch.relu(ap - an + MARGIN).mean()


def gather(rows: Tensor, labels: Tensor) -> Tensor:
    """The strongest plain-PyTorch form: mine without a graph on a BLAS matrix, differentiate the chosen pairs."""
    with torch.no_grad():
        norms = rows.square().sum(1)
        squared = torch.addmm(norms[:, None] + norms, rows, rows.T, alpha=-2)
        same = labels[:, None] == labels
        negatives = squared.masked_fill(same, torch.inf).argmin(1)
        positives = squared.masked_fill(~same, -torch.inf).fill_diagonal_(-torch.inf).argmax(1)
    return loss_of_pairs(rows, positives, negatives)


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
    positive = (same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)).to(rows.dtype)
    hardest_positive = (positive * distances).amax(1, keepdim=True)
    largest = distances.amax(1, keepdim=True)
    hardest_negative = (distances + largest * same.to(rows.dtype)).amin(1, keepdim=True)
    return torch.relu(hardest_positive - hardest_negative + MARGIN).mean()


def reference_loss(rows: Tensor, labels: Tensor) -> Tensor:
    """``fasttriplet.reference``, the specification: written to be read."""
    return reference.batch_hard_triplet_loss(rows, labels, margin=MARGIN)


def pytorch_metric_learning() -> Peer:
    """Its ``BatchHardMiner`` and ``TripletMarginLoss``, averaged over all triplets."""
    from pytorch_metric_learning import distances, losses, miners, reducers

    metric = distances.LpDistance(normalize_embeddings=False)
    miner = miners.BatchHardMiner(distance=metric)
    loss = losses.TripletMarginLoss(margin=MARGIN, distance=metric, reducer=reducers.MeanReducer())
    return lambda rows, labels: loss(rows, labels, miner(rows, labels))


def keops() -> Peer:
    """Two streamed reductions of KeOps mine, without a matrix; the chosen pairs are differentiated as in ``gather``."""
    from pykeops.torch import LazyTensor

    def loss(rows: Tensor, labels: Tensor) -> Tensor:
        fixed = rows.detach()
        x, y = LazyTensor(fixed[:, None].contiguous()), LazyTensor(fixed[None].contiguous())
        ids = labels.to(rows.dtype)  # exact up to 2^24 in float32
        other = ((LazyTensor(ids[:, None, None]) - LazyTensor(ids[None, :, None])) ** 2 - 0.5).step()
        squared = ((x - y) ** 2).sum(-1)
        far = 1e30  # above any squared distance here
        negatives = (squared + (1 - other) * far).argmin(1).view(-1)
        positives = (squared - other * far).argmax(1).view(-1)
        return loss_of_pairs(rows, positives, negatives)

    return loss


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def available() -> dict[str, Callable[[], Peer]]:
    """What makes each peer, by name."""
    peers: dict[str, Callable[[], Peer]] = {
        "gather": lambda: gather,
        "masks": lambda: masks,
        "masks compiled": functools.partial(torch.compile, masks, dynamic=False),
        "sentence-transformers": lambda: sentence_transformers_formula,
        "reference": lambda: reference_loss,
        "reference compiled": functools.partial(torch.compile, reference_loss, dynamic=False),
    }
    if installed("pytorch_metric_learning"):
        peers["pytorch-metric-learning"] = pytorch_metric_learning
    if installed("pykeops"):
        peers["KeOps"] = keops
    return peers
