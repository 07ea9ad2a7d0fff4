"""sentence-transformers' triplet losses and evaluators: change the import, keep the rest of the script.

Names, arguments, defaults and numbers are those of sentence-transformers 6.2; where 5.1 differs is said below.
An anchor without a positive keeps its place in the mean, with a positive at distance 0, and a batch of one class has
the loss that the original has. The losses do not import sentence-transformers: they take its distance functions, or
names, and any model that maps features to ``{"sentence_embedding": [N, D]}``. ``TripletEvaluator`` and
``InformationRetrievalEvaluator`` are the original's with other arithmetic, and import it at the first use of the name;
``LabelRetrievalEvaluator``, of labelled sentences, is one that the original has not.

Deviations, of the four batch losses:

- Distances are exact: from differences, in float64 where rows are chosen, not from a float32 matrix of dot products.
- ``distance_metric`` is one of the original's two functions or a name; other callables are refused, since a matrix of
  distances is what is never made here.
- Where a triplet's loss is exactly 0 its gradient is 0; the original gives all or half of it there.
- A margin that is a tensor is read as a number; one that requires grad is refused.
- float16 and bfloat16 embeddings give a float32 loss.

Where 5.1 parts from 6.2: its semi-hard loss is NaN where there is no positive pair (0 in 6.2 and here), its soft margin
overflows from differences of 89 on in float32 (not in 6.2, nor here), its semi-hard and batch-all losses make arrays of
N x N x N numbers, it takes labels [N] alone, and two distances of its ``TripletLoss`` have the wrong sign.

Source: https://sbert.net/docs/package_reference/sentence_transformer/losses.html.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fasttriplet.compat.sentence_transformers.batch import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
)
from fasttriplet.compat.sentence_transformers.distances import (
    BatchHardTripletLossDistanceFunction,
    TripletDistanceMetric,
)
from fasttriplet.compat.sentence_transformers.triplet import TripletLoss

if TYPE_CHECKING:
    from fasttriplet.compat.sentence_transformers.evaluation import TripletEvaluator as TripletEvaluator
    from fasttriplet.compat.sentence_transformers.label_retrieval import (
        LabelRetrievalEvaluator as LabelRetrievalEvaluator,
    )
    from fasttriplet.compat.sentence_transformers.retrieval import (
        InformationRetrievalEvaluator as InformationRetrievalEvaluator,
    )

#: Evaluators come by their names alone: with a star they would import the original.
__all__ = [
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchHardTripletLossDistanceFunction",
    "BatchSemiHardTripletLoss",
    "TripletDistanceMetric",
    "TripletLoss",
]

_EVALUATORS = {
    "InformationRetrievalEvaluator": "retrieval",
    "LabelRetrievalEvaluator": "label_retrieval",
    "TripletEvaluator": "evaluation",
}


def __getattr__(name: str) -> Any:
    """Evaluators, whose base classes take seconds to import."""
    if name in _EVALUATORS:
        return getattr(importlib.import_module(f"{__name__}.{_EVALUATORS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
