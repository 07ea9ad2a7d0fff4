"""What looks wrong in a data set, by each query's nearest positive and nearest negative: nothing is searched again."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fasttriplet.retrieval.candidates import Candidates
from fasttriplet.retrieval.report import Duplicates, Suspects, percentile


def odd_ones(
    candidates: Candidates,
    distance: str,
    positives: tuple[Tensor, Tensor],
    negatives: tuple[Tensor, Tensor],
    suspect_ratio: float,
    duplicate_distance: float,
) -> dict[str, Any]:
    """Of distances and indices [Q] each, NaN and -1 where there is none: those fields of ``MiningReport``."""
    known = positives[0][positives[1] >= 0].sort().values
    typical = percentile(known, 50) if len(known) else math.nan
    suspect_distance = math.nan
    if distance == "inner_product":  # at which nothing coincides
        duplicate_distance = math.nan
    else:  # a share of lengths, whose squares the other distances are
        suspect_distance = typical * (suspect_ratio if distance == "euclidean" else suspect_ratio**2)
    return {
        "typical_positive_distance": typical,
        "suspect_distance": suspect_distance,
        "suspects": _suspects(candidates, positives[0], negatives, suspect_distance),
        "duplicate_distance": duplicate_distance,
        "duplicates": _duplicates(candidates, positives, negatives, duplicate_distance),
    }


def _suspects(candidates: Candidates, apart: Tensor, negatives: tuple[Tensor, Tensor], reach: float) -> Suspects:
    distances, indices = negatives
    found = (distances <= reach).nonzero()[:, 0]
    found = found[distances[found].argsort(stable=True)]
    return Suspects(candidates.rows[found], candidates.ref_rows[indices[found]], distances[found], apart[found])


def _duplicates(
    candidates: Candidates, positives: tuple[Tensor, Tensor], negatives: tuple[Tensor, Tensor], reach: float
) -> Duplicates:
    (near, of_label), (far, of_others) = positives, negatives
    same = (of_label >= 0) & ((of_others < 0) | (near < far) | ((near == far) & (of_label < of_others)))
    distances, indices = torch.where(same, near, far), torch.where(same, of_label, of_others)
    found = distances <= reach
    if candidates.of_one_set and len(indices):
        queries = torch.arange(len(indices), device=indices.device)
        found &= (queries < indices) | (indices[indices.clamp_min(0)] != queries)  # of a pair one is enough
    return Duplicates(candidates.rows[found], candidates.ref_rows[indices[found]], distances[found], same[found])
