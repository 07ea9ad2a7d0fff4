"""sentence-transformers' distance functions, and which distance of :mod:`fasttriplet` each of them stands for."""

from __future__ import annotations

import functools
import sys
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

#: Functions of the original's class; the third spelling is its own until 5.3, and kept there since.
_FUNCTIONS = {"cosine_distance": "cosine", "euclidean_distance": "euclidean", "eucledian_distance": "euclidean"}


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


def _known(function: object, owner: str, distances: dict[str, str]) -> str | None:
    """The distance of a function, by its name in the class ``owner`` of sentence-transformers or of this module.

    The class is that of the module in which the function was defined, among those that are imported: the original need
    not be. What only looks like its function, by its names, or wraps it, is the user's own: ``None``.
    """
    module = getattr(function, "__module__", None)
    if not isinstance(module, str) or not (module == __name__ or module.startswith("sentence_transformers.")):
        return None
    if hasattr(function, "__wrapped__"):
        return None
    home = getattr(sys.modules.get(module), owner, None)
    for name, distance in distances.items():
        if getattr(home, name, None) is function:
            return distance
    return None


def batch_distance(metric: object) -> str:
    """The name of a distance given by name, by the original's function or by that with ``squared`` bound."""
    if isinstance(metric, str):
        check_choice("distance_metric", metric, DISTANCES)
        return metric
    bound: dict[str, Any] = {}
    function: Any = metric
    if isinstance(metric, functools.partial) and not metric.args:
        function, bound = metric.func, metric.keywords
    distance = _known(function, "BatchHardTripletLossDistanceFunction", _FUNCTIONS)
    if distance == "cosine" and not bound:
        return distance
    if distance == "euclidean" and bound.keys() <= {"squared"}:
        return "squared_euclidean" if bound.get("squared") else distance
    raise ValueError(
        f"distance_metric must be one of {', '.join(DISTANCES)}, or a function of sentence-transformers' "
        f"BatchHardTripletLossDistanceFunction; got {metric!r}"
    )


def triplet_distance(metric: object) -> str | None:
    """The name of a distance given by name or as a member of ``TripletDistanceMetric``, the original's or this
    module's; ``None`` for a function of the user's own.
    """
    if isinstance(metric, str):
        check_choice("distance_metric", metric, TRIPLET_DISTANCES)
        return metric
    if not callable(metric):
        raise TypeError(
            f"distance_metric must be one of {', '.join(TRIPLET_DISTANCES)}, a member of TripletDistanceMetric or a "
            f"function of two tensors; got {type(metric).__name__}"
        )
    return _known(metric, "TripletDistanceMetric", METRICS)


def name_of(metric: object) -> str:
    """As the original's ``get_config_dict`` writes it into a model card."""
    return metric if isinstance(metric, str) else getattr(metric, "__name__", str(metric))
