"""Metrics of libraries that cannot be installed beside PyTorch here, from their sources, as NumPy.

torchreid 1.4 ``metrics/rank.py``, fast-reid 1.3 ``evaluation/rank.py``, open-metric-learning 4.0
``functional/metrics.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def market1501(
    distances: np.ndarray,
    labels: np.ndarray,
    ref_labels: np.ndarray,
    cameras: np.ndarray,
    ref_cameras: np.ndarray,
    max_rank: int = 50,
) -> tuple[np.ndarray, float, float]:
    """CMC [max_rank] float32, mAP and mINP of ``evaluate_rank``; torchreid has no mINP and is the same otherwise.

    Gallery rows of the query's person and camera leave the ranking; queries without another row of their person are
    skipped. The order of ties is that of NumPy's unstable sort. The curves are cut at max_rank and must then be of one
    length: where a query keeps fewer candidates than that, stacking them is an error there, too.
    """
    curves, precisions, penalties = [], [], []
    for query, order in enumerate(np.argsort(distances, axis=1)):
        same = ref_labels[order] == labels[query]
        kept = ~(same & (ref_cameras[order] == cameras[query]))
        hits = same[kept]
        if not hits.any():
            continue
        found = hits.cumsum()
        ranks = np.flatnonzero(hits) + 1
        curves.append((found > 0)[: min(max_rank, len(ref_labels))].astype(np.float32))
        precisions.append((found[hits] / ranks).sum() / hits.sum())
        penalties.append(hits.sum() / ranks[-1])
    assert curves, "no query's person is in the gallery"
    return np.stack(curves).mean(0), float(np.mean(precisions)), float(np.mean(penalties))


def oml(hits: Sequence[bool], relevant: int, k: int) -> dict[str, float]:
    """Of one query: ``hits`` of what was retrieved, ``relevant`` how many there are in the gallery."""
    if not len(hits):
        return dict.fromkeys(("cmc", "precision", "map"), float(relevant == 0))
    cut = np.asarray(hits[:k], dtype=float)
    found = cut.cumsum()
    with np.errstate(invalid="ignore"):
        precision = found[-1] / np.float64(min(relevant, len(cut)))
    gains = (found / np.arange(1, len(cut) + 1) * cut).sum()
    return {
        "cmc": float(cut.any()),
        "precision": float(precision),
        "map": float(gains / found[-1]) if found[-1] else 0.0,
    }
