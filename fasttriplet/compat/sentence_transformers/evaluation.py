"""``TripletEvaluator``: the original's with exact distances. Importing this module imports sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fasttriplet.compat.sentence_transformers.distances import TripletDistanceMetric
from fasttriplet.pair_distances import pair_distances

if TYPE_CHECKING:
    _Original = Any
else:
    try:
        from sentence_transformers.sentence_transformer.evaluation import TripletEvaluator as _Original

        _Original._get_similarity_functions  # noqa: B018  it is what is replaced; 5 has none
    except (ImportError, AttributeError) as error:
        raise ImportError(
            "fasttriplet.compat.sentence_transformers.TripletEvaluator needs sentence-transformers 6 or later (pip "
            f"install sentence-transformers); importing it says: {error}"
        ) from error

#: Numbers looked at together: some MiB of float64.
_BLOCK = 2**20

Scores = Callable[[Any, Any, Any], tuple[Tensor, Tensor]]


class TripletEvaluator(_Original):
    """Which share of triplets has the positive nearer to the anchor than the negative, by a margin if wanted.

    It is a ``TripletEvaluator`` of sentence-transformers 6, with all that there is in it: arguments, prompts, logging,
    the CSV file, the entry in the model card. Similarities alone are computed here.

    Args: those of the original: ``anchors``, ``positives`` and ``negatives``, lists of as many sentences, and
    ``main_similarity_function``, ``margin``, ``name``, ``batch_size``, ``show_progress_bar``, ``write_csv``,
    ``truncate_dim`` and ``similarity_fn_names``.

    Raises:
        ImportError: sentence-transformers is missing, or older than this class can stand on.
        ValueError: as the original raises it.

    Deviations: similarities are float64's, from differences, so that a triplet whose two distances differ by less than
    the original's rounding may fall on the other side.

    Source: https://sbert.net/docs/package_reference/sentence_transformer/evaluation.html.
    """

    def _get_similarity_functions(self) -> dict[str, Scores]:
        """The hook of the original: scores [T] of the positives and of the negatives."""
        return {name: _scores(score) for name, score in SIMILARITIES.items()}


#: Similarities [B] of float64 rows [B, D], larger where rows are nearer.
SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda x, y: 1 - pair_distances(x, y, "cosine"),
    "dot": lambda x, y: -pair_distances(x, y, "inner_product"),
    "manhattan": lambda x, y: -TripletDistanceMetric.MANHATTAN(x, y),
    "euclidean": lambda x, y: -pair_distances(x, y, "euclidean"),
}


def _scores(score: Callable[[Tensor, Tensor], Tensor]) -> Scores:
    """``score`` of anchors with positives and with negatives, some rows at a time."""

    def of_pairs(first: Tensor, second: Tensor) -> Tensor:
        rows = max(1, _BLOCK // max(1, first.shape[1]))
        parts = zip(first.split(rows), second.split(rows), strict=True)
        return torch.cat([score(x.double(), y.double()) for x, y in parts])

    def of_triplets(anchors: Any, positives: Any, negatives: Any) -> tuple[Tensor, Tensor]:
        a, p, n = (torch.as_tensor(np.asarray(rows)) for rows in (anchors, positives, negatives))
        return of_pairs(a, p), of_pairs(a, n)

    return of_triplets
