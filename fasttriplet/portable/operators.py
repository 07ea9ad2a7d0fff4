"""The operators of the portable engine: ``fasttriplet::portable_NAME``, and as the default of ``NAME`` where a device
has no kernel. They check their tensors; what surrounds a call is in :mod:`fasttriplet.schemas`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fasttriplet.portable import checks, dense, edges, hard, losses, miners


def mine_batch_hard(embeddings: Tensor, labels: Tensor, distance: int) -> Any:
    checks.check_embeddings(embeddings)
    checks.check_labels(labels, embeddings)
    checks.check_distance(distance)
    return hard.mine_batch_hard(embeddings, labels, distance)


def batch_hard_loss(
    embeddings: Tensor,
    labels: Tensor,
    margin: float,
    distance: int,
    soft_margin: bool,
    reduction: int,
    on_missing: int,
) -> Any:
    checks.check_embeddings(embeddings)
    checks.check_labels(labels, embeddings)
    checks.check_distance(distance)
    checks.check_reduction(reduction)
    checks.check_on_missing(on_missing)
    return hard.batch_hard_loss(embeddings, labels, margin, distance, soft_margin, reduction, on_missing)


def _batch_hard_loss_backward(
    grad_loss: Tensor, embeddings: Tensor, values: Tensor, pairs: Tensor, distance: int
) -> Any:
    checks.check_embeddings(embeddings)
    checks.check_upstream(grad_loss, embeddings)
    origin = "batch_hard_loss returned for these embeddings"
    checks.check_saved(values, "values", torch.float64, 3, embeddings, origin)
    checks.check_saved(pairs, "pairs", torch.int64, 2, embeddings, origin)
    checks.check_pairs(pairs, len(embeddings))
    checks.check_distance(distance)
    return hard.batch_hard_loss_backward(grad_loss, embeddings, values, pairs, distance)


def mine_triplets(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: Any,
    numbers: Any,
    distance: int,
    miner: int,
    otherwise: int,
    within_margin: bool,
    margin: float,
    k: int,
    kth_only: bool,
    skip_fraction: float,
) -> Any:
    batch = embeddings, labels, ref_embeddings, pairing, numbers
    checks.check_pairing(*batch)
    checks.check_miner(miner, otherwise, k, skip_fraction)
    checks.check_distance(distance)
    options = miners.Options.of_codes(miner, otherwise, within_margin, margin, k, kth_only, skip_fraction)
    return miners.mine_triplets(*batch, distance, options)


def _triplet_distances_backward(
    grad: Tensor,
    embeddings: Tensor,
    ref_embeddings: Tensor | None,
    distances: Tensor,
    triplets: Tensor,
    distance: int,
) -> Any:
    checks.check_embeddings(embeddings)
    checks.check_mined(grad, distances, triplets, embeddings)
    checks.check_references(ref_embeddings, embeddings)
    candidates = len(embeddings if ref_embeddings is None else ref_embeddings)
    checks.check_triplet_indices(triplets, len(embeddings), candidates)
    checks.check_distance(distance)
    # By triplet, its positive before its negative.
    chosen, slopes, values = (each.T.flatten() for each in (triplets[1:], grad, distances))
    anchors = triplets[0].repeat_interleave(2)
    return edges.edge_gradients(embeddings, ref_embeddings, anchors, chosen, slopes, values, distance)


def triplet_losses(
    distances: Tensor,
    triplets: Tensor,
    poison: Tensor,
    margin: float,
    soft_margin: bool,
    reduction: int,
    on_missing: int,
) -> Any:
    checks.check_mined(distances, distances, triplets, distances)
    checks.check_poison(poison, distances)
    checks.check_reduction(reduction)
    checks.check_on_missing(on_missing)
    return losses.triplet_losses(distances, triplets, poison, margin, soft_margin, reduction, on_missing)


def batch_all(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: Any,
    numbers: Any,
    distance: int,
    margin: float,
    soft_margin: bool,
    with_gradient: bool,
) -> Any:
    batch = embeddings, labels, ref_embeddings, pairing, numbers
    checks.check_pairing(*batch)
    checks.check_distance(distance)
    return dense.batch_all(*batch, distance, margin, soft_margin, with_gradient)


def _batch_all_backward(
    grad: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: Any,
    numbers: Any,
    distance: int,
    margin: float,
    soft_margin: bool,
) -> Any:
    batch = embeddings, labels, ref_embeddings, pairing, numbers
    checks.check_pairing(*batch)
    checks.check_anchor_values(grad, "grad", 0, embeddings)
    checks.check_distance(distance)
    return dense.batch_all_backward(grad, *batch, distance, margin, soft_margin)


def weighted_distances(
    embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None, pairing: Any, numbers: Any, distance: int
) -> Any:
    batch = embeddings, labels, ref_embeddings, pairing, numbers
    checks.check_pairing(*batch)
    checks.check_distance(distance)
    return dense.weighted_distances(*batch, distance)


def _weighted_distances_backward(
    grad: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: Any,
    numbers: Any,
    distance: int,
    values: Tensor,
) -> Any:
    batch = embeddings, labels, ref_embeddings, pairing, numbers
    checks.check_pairing(*batch)
    checks.check_anchor_values(grad, "grad", 2, embeddings)
    checks.check_anchor_values(values, "values", dense.VALUES, embeddings)
    checks.check_distance(distance)
    return dense.weighted_distances_backward(grad, *batch, distance, values)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    weights: Tensor | None,
    margin: float,
    distance: int,
    swap: bool,
    soft_margin: bool,
    mining_margin: float | None,
    reduction: int,
) -> Any:
    checks.check_triplets(anchor, positive, negative)
    checks.check_distance(distance)
    checks.check_reduction(reduction)
    checks.check_triplet_weights(weights, anchor)
    rows = anchor, positive, negative
    return losses.triplet_margin_loss(*rows, weights, margin, distance, swap, soft_margin, mining_margin, reduction)


def _triplet_margin_loss_backward(
    grad_loss: Tensor,
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    values: Tensor,
    distance: int,
    swap: bool,
    wants_anchor: bool,
    wants_positive: bool,
    wants_negative: bool,
) -> Any:
    checks.check_triplets(anchor, positive, negative)
    checks.check_upstream(grad_loss, anchor, "anchor")
    checks.check_distance(distance)
    kept = losses.values_kept(distance, swap)
    origin = "triplet_margin_loss returned for these triplets"
    checks.check_saved(values, "values", torch.float64, kept, anchor, origin)
    wanted = wants_anchor, wants_positive, wants_negative
    return losses.triplet_margin_loss_backward(grad_loss, anchor, positive, negative, values, distance, swap, wanted)


#: By the name of the operator that each is the default of.
OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        mine_batch_hard,
        batch_hard_loss,
        _batch_hard_loss_backward,
        mine_triplets,
        _triplet_distances_backward,
        triplet_losses,
        batch_all,
        _batch_all_backward,
        weighted_distances,
        _weighted_distances_backward,
        triplet_margin_loss,
        _triplet_margin_loss_backward,
    )
}
