"""What :mod:`fasttriplet.compat.pml` understands of pytorch-metric-learning's objects, without importing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES, REDUCTIONS
from fasttriplet.compat._labels import integer_labels
from fasttriplet.pairing import widened

#: Candidate triplets looked at together: some MiB of float64 distances.
_BLOCK = 2**20

_REDUCERS = {
    "AvgNonZeroReducer": "mean_nonzero",
    "MeanReducer": "mean",
    "SumReducer": "sum",
    "DoNothingReducer": "none",
}


class Metric(NamedTuple):
    """A distance of :mod:`fasttriplet`, and whether rows are divided by their norm before."""

    distance: str
    normalize: bool

    def rows(self, embeddings: Tensor) -> Tensor:
        """[N, D], half precision widened, and normalised as pytorch-metric-learning does: zero rows stay zero."""
        rows = widened(embeddings)
        return torch.nn.functional.normalize(rows, dim=1) if self.normalize else rows


def metric_of(distance: object) -> Metric:
    """Of ``None`` (pytorch-metric-learning's default), a name, or a distance object of pytorch-metric-learning."""
    if distance is None:
        return Metric("euclidean", True)
    if isinstance(distance, str) and distance in DISTANCES:
        return Metric(distance, False)
    kind, p, power = type(distance).__name__, getattr(distance, "p", None), getattr(distance, "power", None)
    normalize = getattr(distance, "normalize_embeddings", None)
    if isinstance(normalize, bool) and p == 2:
        if kind == "LpDistance" and power in (1, 2):
            return Metric("euclidean" if power == 1 else "squared_euclidean", normalize)
        if kind == "CosineSimilarity" and power == 1:
            return Metric("cosine", False)
        if kind == "DotProductSimilarity" and power == 1:
            return Metric("inner_product", normalize)
    raise ValueError(
        f"distance must be None, one of {', '.join(DISTANCES)}, or pytorch-metric-learning's LpDistance (p=2, power 1 "
        f"or 2), CosineSimilarity or DotProductSimilarity; got {distance!r}"
    )


def reduction_of(reducer: object) -> str:
    """Of ``None`` (pytorch-metric-learning's default), a name, or a reducer object of pytorch-metric-learning."""
    if reducer is None:
        return "mean_nonzero"
    if isinstance(reducer, str) and reducer in REDUCTIONS:
        return reducer
    if type(reducer).__name__ in _REDUCERS:
        return _REDUCERS[type(reducer).__name__]
    raise ValueError(
        f"reducer must be None, one of {', '.join(REDUCTIONS)}, or pytorch-metric-learning's "
        f"{', '.join(_REDUCERS)}; got {reducer!r}"
    )


class References(NamedTuple):
    """Where positives and negatives come from, as arguments of the functions; all ``None``: the batch itself."""

    ref_embeddings: Tensor | None
    ref_labels: Tensor | None
    self_indices: Tensor | None


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
    if len(indices) == 3:
        return indices[0], indices[1], indices[2]
    if len(indices) != 4:
        raise ValueError(
            "indices_tuple must be (anchors, positives, negatives) or (anchors, positives, anchors, negatives); "
            f"got {len(indices)} tensors"
        )
    first, positives, second, negatives = indices
    of_positive, of_negative = torch.where(first[:, None] == second)
    return first[of_positive], positives[of_positive], negatives[of_negative]


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
    their negatives, [P, M] bool; ``None``: all.
    """
    positive, negative = _positive_and_negative(labels, references)
    pairs = positive.nonzero()
    found = [pairs.new_empty(3, 0)]
    for anchors, positives in (part.unbind(1) for part in pairs.split(max(1, _BLOCK // max(1, negative.shape[1])))):
        allowed = negative.index_select(0, anchors)
        those = chosen(anchors, positives)
        of_pair, negatives = (allowed if those is None else allowed & those).nonzero().unbind(1)
        found.append(torch.stack([anchors[of_pair], positives[of_pair], negatives]))
    anchors, positives, negatives = torch.cat(found, 1).unbind(0)
    return anchors, positives, negatives
