"""Batch-hard over labels alone by the portable engine: its miner, its loss and its gradient.

Here a row that is not finite takes part: it is at distance NaN from every row, which is the hardest of all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fasttriplet.check import ON_MISSING, REDUCTIONS
from fasttriplet.portable.checks import (
    check_distance,
    check_embeddings,
    check_labels,
    check_none_missing,
    check_on_missing,
    check_pairs,
    check_reduction,
    check_saved,
    check_upstream,
)
from fasttriplet.portable.edges import edge_gradients
from fasttriplet.portable.losses import reduce_losses
from fasttriplet.portable.miners import Batch, candidates_of, extremes, farthest_positive
from fasttriplet.portable.pairs import Given, Pairs


def mine_batch_hard(embeddings: Tensor, labels: Tensor, distance: int) -> tuple[Tensor, Tensor, Tensor]:
    """The operator: distances [2, N], positives [N], negatives [N]."""
    distances, pairs, _ = _mined(embeddings, labels, distance)
    return distances, pairs[0].clone(), pairs[1].clone()


def batch_hard_loss(
    embeddings: Tensor,
    labels: Tensor,
    margin: float,
    distance: int,
    soft_margin: bool,
    reduction: int,
    on_missing: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator: loss, values [3, N] and pairs [2, N]."""
    check_reduction(reduction)
    check_on_missing(on_missing)
    distances, pairs, finite = _mined(embeddings, labels, distance)
    if ON_MISSING[on_missing] == "error":
        check_none_missing(((pairs < 0).any(0)) & finite)
    poison = torch.where(finite, 1.0, torch.nan)
    losses, slopes = reduce_losses(
        distances, pairs >= 0, poison, margin, soft_margin, REDUCTIONS[reduction], ON_MISSING[on_missing]
    )
    return losses.to(embeddings.dtype), torch.cat([slopes[None], distances]), pairs


def batch_hard_loss_backward(
    grad_loss: Tensor, embeddings: Tensor, values: Tensor, pairs: Tensor, distance: int
) -> Tensor:
    """The operator: the gradient [N, D]."""
    check_embeddings(embeddings)
    check_upstream(grad_loss, embeddings)
    origin = "batch_hard_loss returned for these embeddings"
    check_saved(values, "values", torch.float64, 3, embeddings, origin)
    check_saved(pairs, "pairs", torch.int64, 2, embeddings, origin)
    check_pairs(pairs, len(embeddings))
    check_distance(distance)
    slopes = values[0] * grad_loss.double()
    anchors = torch.arange(len(embeddings), device=embeddings.device)
    # A slope that is NaN poisons all, also of an anchor without a pair.
    unknown = torch.where(values[0].isnan().any(), torch.nan, 1.0)
    edges = anchors.repeat(2), pairs.flatten(), torch.cat([slopes, -slopes]), values[1:].flatten()
    gradient, _ = edge_gradients(embeddings, None, *edges, distance)
    return gradient * unknown.to(gradient.dtype)


def _mined(embeddings: Tensor, labels: Tensor, distance: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distances [2, N], pairs [2, N] and [] bool, whether every row is finite."""
    check_embeddings(embeddings)
    check_labels(labels, embeddings)
    check_distance(distance)
    pairs = Pairs(Given(embeddings, labels, None, (), (), distance))
    n = len(embeddings)
    chosen = labels.new_full((2, n), -1, dtype=torch.int64)
    distances = embeddings.new_full((2, n), torch.nan, dtype=torch.float64)
    for chunk, *picks in extremes(Batch(pairs, distance), farthest_positive, -1):
        at = pairs.order[chunk.anchors]
        for side, pick in enumerate(picks):
            chosen[side, at] = candidates_of(pairs, pick.columns)
            distances[side, at] = pick.scores
    if not pairs.finite:  # a wait for the device, as those above
        finite = torch.empty_like(pairs.rows.finite)
        finite[pairs.order] = pairs.rows.finite
        chosen, distances = _with_unknown(labels.long(), finite, chosen, distances)
    return distances, chosen, pairs.finite


def _with_unknown(labels: Tensor, finite: Tensor, chosen: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Where a distance is NaN it is taken first: of a row that is not finite to all others, and of others to it."""
    _, classes = labels.unique(return_inverse=True)
    everyone, unknown = torch.ones_like(finite), ~finite
    of_all, of_unknown = _lowest(classes, everyone), _lowest(classes, unknown)
    first = torch.where(finite, of_unknown, of_all)
    found = first >= 0
    return torch.where(found, first, chosen), torch.where(found, torch.nan, distances)


def _lowest(classes: Tensor, eligible: Tensor) -> Tensor:
    """[2, N]: for every row the lowest eligible row of its class that is not itself, and of any other class; or -1."""
    n = len(classes)
    indices = torch.arange(n, device=classes.device)
    nobody = classes.new_full((n + 1,), n)

    def lowest_of_class(rows: Tensor) -> Tensor:
        return nobody.scatter_reduce(0, classes, torch.where(rows, indices, n), "amin")[classes]

    first = lowest_of_class(eligible)
    second = lowest_of_class(eligible & (indices != first))
    same = torch.where(first == indices, second, first)
    padded = torch.nn.functional.pad(indices, (0, 1), value=n)
    overall = torch.where(eligible, indices, n).amin() if n else nobody[:1].amin()
    its_class = torch.nn.functional.pad(classes, (0, 1), value=-1)[overall]
    next_class = torch.where(eligible & (classes != its_class), indices, n).amin() if n else overall
    other = torch.where(classes == its_class, next_class, overall)
    lowest = torch.stack([same, padded[other]])
    return torch.where(lowest == n, -1, lowest)
