"""References, triplets and indices as pytorch-metric-learning exchanges them, for :mod:`fasttriplet.compat.pml`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import check_dense, check_rows
from fasttriplet.compat._labels import check_labels, integer_labels
from fasttriplet.compat._pairs import PairDistances, distance_matrix
from fasttriplet.compat._pml_objects import Metric
from fasttriplet.trip import away, there_and_back

#: Candidate triplets looked at together: some MiB of float64 distances.
_BLOCK = 2**20


class References(NamedTuple):
    """Where positives and negatives come from, as arguments of the functions; all ``None``: the batch itself."""

    ref_embeddings: Tensor | None
    ref_labels: Tensor | None
    self_indices: Tensor | None


def check_batch(
    metric: Metric | None, embeddings: Tensor, labels: Tensor | None, ref_emb: Tensor | None, ref_labels: Tensor | None
) -> None:
    """Rows [N, D] and [M, D] of one D, and a label a row, where there are any, on whichever way they go.

    A distance of one's own, for which ``metric`` is ``None``, says itself which rows it takes.
    """
    if metric is not None:
        check_rows("embeddings", embeddings)
    if labels is not None:
        check_labels("labels", labels, "embeddings", embeddings)
    if ref_emb is None or (ref_emb is embeddings and ref_labels is labels):
        return
    if metric is not None:
        check_rows("ref_emb", ref_emb, "M")
        if ref_emb.shape[1] != embeddings.shape[1]:
            raise ValueError(
                f"ref_emb must have shape [M, {embeddings.shape[1]}] to match embeddings {list(embeddings.shape)}; got "
                f"{list(ref_emb.shape)}"
            )
    if ref_labels is not None:
        check_labels("ref_labels", ref_labels, "ref_emb", ref_emb)


def pairing(
    metric: Metric, rows: Tensor, labels: Tensor, ref_emb: Tensor | None, ref_labels: Tensor | None
) -> tuple[Tensor, References]:
    """Integer labels, and the references; where both share one tensor of labels, row i is its own copy."""
    if ref_emb is None:
        return integer_labels(labels.to(rows.device)), References(None, None, None)
    if ref_labels is None:
        raise ValueError("ref_labels must be given with ref_emb; got None")
    own = torch.arange(len(rows), device=rows.device) if ref_labels is labels else None
    common = torch.promote_types(labels.dtype, ref_labels.dtype)  # 1 and 1.0 are equal labels
    ids, ref_ids = (integer_labels(each.to(rows.device, common)) for each in (labels, ref_labels))
    return ids, References(metric.rows(ref_emb), ref_ids, own)


def triplets_of(indices: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """(anchors, positives, negatives) of a miner's output; pairs are joined by their anchor, each with each."""
    if len(indices) not in (3, 4):
        raise ValueError(
            "indices_tuple must be (anchors, positives, negatives) or (anchors, positives, anchors, negatives); "
            f"got {len(indices)} tensors"
        )
    _check_indices(indices)
    # Of int64 all, since tensors of uint8 are taken for masks, and of other small integers for no indices.
    if len(indices) == 3:
        return indices[0].long(), indices[1].long(), indices[2].long()
    first, positives, second, negatives = (each.long() for each in indices)
    of_positive, of_negative = torch.where(first[:, None] == second)
    return first[of_positive], positives[of_positive], negatives[of_negative]


def _check_indices(indices: tuple[Tensor, ...]) -> None:
    """Integers [T], as many of each of a triplet, or of each of a pair; what they name is not looked at."""
    for number, each in enumerate(indices):
        check_dense(f"indices_tuple[{number}]", each)
    of_whole = all(i.dtype != torch.bool and not i.is_floating_point() and not i.is_complex() for i in indices)
    right = of_whole and all(each.ndim == 1 for each in indices)
    if right and not torch.compiler.is_compiling():  # where the lengths of what was mined are not known
        parts = (indices,) if len(indices) == 3 else (indices[:2], indices[2:])
        right = all(each.shape == part[0].shape for part in parts for each in part)
    if not right:
        shapes = ", ".join(str(list(each.shape)) for each in indices)
        dtypes = ", ".join(str(each.dtype) for each in indices)
        raise ValueError(f"indices_tuple must be index tensors [T] of one length; got shapes {shapes}, dtypes {dtypes}")


def _positive_and_negative(labels: Tensor, references: References) -> tuple[Tensor, Tensor]:
    """Which pairs [N, M] of anchors and candidates are positive and which are negative."""
    same = labels[:, None] == (labels if references.ref_labels is None else references.ref_labels)
    positive = same.clone()
    if references.ref_labels is None or references.self_indices is not None:
        positive.fill_diagonal_(False)
    return positive, ~same


def all_triplets(labels: Tensor, references: References) -> tuple[Tensor, Tensor, Tensor]:
    """Every triplet, by anchor, positive and negative ascending; as many as there are, so O(N^3)."""
    return triplets_where(labels, references, lambda anchors, positives: None)


def triplets_where(
    labels: Tensor, references: References, chosen: Callable[[Tensor, Tensor], Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """The triplets that ``chosen`` lets through, by anchor, positive and negative ascending.

    ``chosen`` is given positive pairs (anchors [P], positives [P]), some at a time, and says which candidates may be
    their negatives, [P, M] bool; ``None``: all. Under ``torch.compile`` it is given all pairs at once, since how often
    a loop runs must not depend on data there.
    """
    positive, negative = _positive_and_negative(labels, references)
    pairs = positive.nonzero()

    def of_pairs(anchors: Tensor, positives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        allowed = negative.index_select(0, anchors)
        those = chosen(anchors, positives)
        of_pair, negatives = (allowed if those is None else allowed & those).nonzero().unbind(1)
        return anchors[of_pair], positives[of_pair], negatives

    if torch.compiler.is_compiling():
        return of_pairs(*pairs.unbind(1))
    found = [of_pairs(*part.unbind(1)) for part in pairs.split(max(1, _BLOCK // max(1, negative.shape[1])))]
    anchors, positives, negatives = (torch.cat(column) for column in zip(*found, strict=True))
    return anchors, positives, negatives


def triplets_by_margin(
    rows: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    self_indices: Tensor | None,
    distance: str,
    margin: float | Tensor,
    type_of_triplets: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The triplets of ``TripletMarginMiner``, by float64's distances: by how much the negative is farther."""
    if away(rows):
        return there_and_back(triplets_by_margin, locals())
    others = rows if ref_embeddings is None else ref_embeddings
    distances = distance_matrix(rows.double(), others.double(), distance)

    def chosen(anchors: Tensor, positives: Tensor) -> Tensor:
        gap = distances.index_select(0, anchors) - distances[anchors, positives][:, None]  # [P, M]
        if type_of_triplets == "easy":
            return gap > margin
        violating = gap <= margin
        if type_of_triplets == "hard":
            return violating & (gap <= 0)
        return violating & (gap > 0) if type_of_triplets == "semihard" else violating

    return triplets_where(labels, References(ref_embeddings, ref_labels, self_indices), chosen)


def differences(
    metric: Metric | None,
    distance: Any,
    rows: Tensor,
    others: Tensor,
    triplets: tuple[Tensor, Tensor, Tensor],
    *,
    swap: bool,
) -> Tensor:
    """By how much the positive of each triplet is farther than its negative, [T].

    Rows [N, D] and others [M, D] are as :meth:`Metric.rows` makes them. A distance that the kernels do not have, whose
    ``metric`` is ``None``, is called for its matrix; ``swap`` then takes a second one, where positives are others.
    """
    anchors, positives, negatives = triplets
    if metric is None:
        matrix = distance(rows, others)
        nearby, apart = matrix[anchors, positives], matrix[anchors, negatives]
        if swap:
            among = matrix if others is rows else distance(others, others)
            apart = distance.smallest_dist(apart, among[positives, negatives])
        return distance.margin(nearby, apart)
    distances = PairDistances(rows, others, metric.distance, pairs=2 * anchors.shape[0])
    nearby, apart = distances(anchors, positives), distances(anchors, negatives)
    if swap:
        among = PairDistances(others, others, metric.distance, pairs=anchors.shape[0])(positives, negatives)
        apart = torch.minimum(apart, among)
    return nearby - apart
