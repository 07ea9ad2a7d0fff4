"""The specification: triplet losses, miners and retrieval in plain PyTorch, written to be read, not to be fast.

Everything in this package is tested against these functions, run in float64. They materialise [N, M] matrices, which
the kernels never do, and compute in the dtype of ``embeddings``.

- :mod:`~fasttriplet.reference.distances`: distances of pairs of rows and of all pairs.
- :mod:`~fasttriplet.reference.pairs`: which pairs are positive and which are negative.
- :mod:`~fasttriplet.reference.loss`: from distances to losses, reductions and statistics; one function for all losses.
- :mod:`~fasttriplet.reference.batch_hard`: the farthest positive and the nearest negative of every anchor.
- :mod:`~fasttriplet.reference.mined`: semi-hard, easy positive and k hardest.
- :mod:`~fasttriplet.reference.dense`: every triplet, and softly weighted distances.
- :mod:`~fasttriplet.reference.triplet_margin`: explicit triplets.
- :mod:`~fasttriplet.reference.retrieval`: nearest neighbours and metrics of rankings; :mod:`fasttriplet.retrieval`.
"""

from fasttriplet.reference.batch_hard import MinedTriplets, batch_hard_triplet_loss, mine_batch_hard
from fasttriplet.reference.dense import batch_all_triplet_loss, weighted_triplet_loss
from fasttriplet.reference.distances import DISTANCES, check, paired_distances, pairwise_distances, unit_rows
from fasttriplet.reference.loss import ON_MISSING, REDUCTIONS, TripletStats
from fasttriplet.reference.mined import (
    OTHERWISE,
    Triplets,
    easy_positive_triplet_loss,
    k_hardest_triplet_loss,
    mine_easy_positive,
    mine_k_hardest,
    mine_semi_hard,
    semi_hard_triplet_loss,
)
from fasttriplet.reference.pairs import Batch, Pairing, batch_of
from fasttriplet.reference.retrieval import nearest, retrieval_metrics, within
from fasttriplet.reference.triplet_margin import triplet_margin_loss

__all__ = [
    "DISTANCES",
    "ON_MISSING",
    "OTHERWISE",
    "REDUCTIONS",
    "Batch",
    "MinedTriplets",
    "Pairing",
    "TripletStats",
    "Triplets",
    "batch_all_triplet_loss",
    "batch_hard_triplet_loss",
    "batch_of",
    "check",
    "easy_positive_triplet_loss",
    "k_hardest_triplet_loss",
    "mine_batch_hard",
    "mine_easy_positive",
    "mine_k_hardest",
    "mine_semi_hard",
    "nearest",
    "paired_distances",
    "pairwise_distances",
    "retrieval_metrics",
    "semi_hard_triplet_loss",
    "triplet_margin_loss",
    "unit_rows",
    "weighted_triplet_loss",
    "within",
]
