"""sentence-transformers' distance functions, and which distance of :mod:`fasttriplet` each of them stands for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fasttriplet.check import check_choice
from fasttriplet.compat._pairs import distance_matrix
from fasttriplet.pair_distances import pair_distances
from fasttriplet.pairing import widened

#: Of the batch losses.
DISTANCES = ("euclidean", "squared_euclidean", "cosine")
#: Of the loss of explicit triplets.
TRIPLET_DISTANCES = (*DISTANCES, "manhattan")

#: A name of ``DISTANCES`` or a function of the original.
DistanceMetric = str | Callable[..., Tensor]

#: The second spelling is the original's until 5.3, and kept there since.
_EUCLIDEAN = ("euclidean_distance", "eucledian_distance")


class BatchHardTripletLossDistanceFunction:
    """The distances of the batch losses, under the names of the original's functions.

    A loss takes them for what they stand for and does not call them. Called, they make the matrix [N, N] of all
    distances, as the original's do.
    """

    @staticmethod
    def cosine_distance(embeddings: Tensor) -> Tensor:
        """1 - cos of all rows [N, D] with all, [N, N]; a zero row is at distance 1."""
        rows = widened(embeddings)
        return distance_matrix(rows, rows, "cosine")

    @staticmethod
    def euclidean_distance(embeddings: Tensor, squared: bool = False) -> Tensor:
        """Euclidean distances of all rows [N, D] to all, [N, N], squared if wanted."""
        rows = widened(embeddings)
        return distance_matrix(rows, rows, "squared_euclidean" if squared else "euclidean")

    eucledian_distance = euclidean_distance


class TripletDistanceMetric:
    """The distances of :class:`TripletLoss`, under the original's names; each is also a function of two [T, D]."""

    @staticmethod
    def COSINE(x: Tensor, y: Tensor) -> Tensor:
        """1 - cos of rows [T, D], [T]."""
        return pair_distances(widened(x), widened(y), "cosine")

    @staticmethod
    def EUCLIDEAN(x: Tensor, y: Tensor) -> Tensor:
        """Euclidean distances of rows [T, D], [T]."""
        return pair_distances(widened(x), widened(y), "euclidean")

    @staticmethod
    def MANHATTAN(x: Tensor, y: Tensor) -> Tensor:
        """Sums of absolute differences of rows [T, D], [T]."""
        return (widened(x) - widened(y)).abs().sum(-1)


#: Their names, and the distances they are.
METRICS = {"COSINE": "cosine", "EUCLIDEAN": "euclidean", "MANHATTAN": "manhattan"}


def batch_distance(metric: object) -> str:
    """The name of a distance given by name, by the original's function or by that with ``squared`` bound.

    Functions are told by their class and name, so that the original need not be imported to know them.
    """
    if isinstance(metric, str):
        check_choice("distance_metric", metric, DISTANCES)
        return metric
    bound: dict[str, Any] = {}
    function: Any = metric
    if isinstance(metric, functools.partial) and not metric.args:
        function, bound = metric.func, metric.keywords
    owner, _, name = getattr(function, "__qualname__", "").rpartition(".")
    if owner == "BatchHardTripletLossDistanceFunction":
        if name == "cosine_distance" and not bound:
            return "cosine"
        if name in _EUCLIDEAN and bound.keys() <= {"squared"}:
            return "squared_euclidean" if bound.get("squared") else "euclidean"
    raise ValueError(
        f"distance_metric must be one of {', '.join(DISTANCES)}, or a function of sentence-transformers' "
        f"BatchHardTripletLossDistanceFunction; got {metric!r}"
    )


def triplet_distance(metric: object) -> str | None:
    """The name of a distance given by name or as a member of ``TripletDistanceMetric``, the original's or this
    module's; ``None`` for a function of the user's own.

    The original's members are lambdas without a name of their own: they are looked for where they were defined.
    """
    if isinstance(metric, str):
        check_choice("distance_metric", metric, TRIPLET_DISTANCES)
        return metric
    if not callable(metric):
        raise TypeError(
            f"distance_metric must be one of {', '.join(TRIPLET_DISTANCES)}, a member of TripletDistanceMetric or a "
            f"function of two tensors; got {type(metric).__name__}"
        )
    theirs = getattr(metric, "__globals__", {}).get("TripletDistanceMetric")
    for owner in (TripletDistanceMetric, theirs):
        for member, distance in METRICS.items():
            if getattr(owner, member, None) is metric:
                return distance
    return None


def name_of(metric: object) -> str:
    """As the original's ``get_config_dict`` writes it into a model card."""
    return metric if isinstance(metric, str) else getattr(metric, "__name__", str(metric))
