"""Distances, reducers and margins of pytorch-metric-learning: which of them the kernels compute, and stand-ins by name.

Nothing here imports the library. One of its objects is known by its exact class, told by module and name, and by the
attributes that it has at the moment of asking; a subclass, whatever its name, is not known and stays in charge, as does
an object with hooks, with a method put into it, or of a class that was patched.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fasttriplet.check import DISTANCES, REDUCTIONS, check_margin
from fasttriplet.compat._pairs import distance_matrix, normalized
from fasttriplet.pairing import widened


class Metric(NamedTuple):
    """A distance of :mod:`fasttriplet`, and whether rows are divided by their norm before."""

    distance: str
    normalize: bool

    def rows(self, embeddings: Tensor) -> Tensor:
        """[N, D], half precision widened, and normalised where that is asked for: zero rows stay zero."""
        rows = widened(embeddings)
        return normalized(rows) if self.normalize else rows


_REDUCTIONS = {
    "AvgNonZeroReducer": "mean_nonzero",
    "ThresholdReducer": "mean_nonzero",
    "MeanReducer": "mean",
    "SumReducer": "sum",
    "LossOfEachTriplet": "none",
}


_LIBRARY = "pytorch_metric_learning."
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: The methods that classes were first seen with, since to tell where each comes from takes longer than a small loss.
_WRITTEN: dict[type, tuple[tuple[str, object], ...]] = {}


def _kind(thing: object, folder: str) -> str:
    """The name of the class where it is of this file or of that folder of the library, else ``""``."""
    cls = type(thing)
    return cls.__qualname__ if cls.__module__ == __name__ or cls.__module__.startswith(folder) else ""


def _adapted(thing: nn.Module) -> bool:
    """Whether it runs code that its class was not written with: hooks, or methods put into it or into the class."""
    cls, state = type(thing), thing.__dict__
    written = _methods(cls)
    if written is None or any(state.get(hooks) for hooks in _HOOKS):
        return True
    return any(name in state or getattr(cls, name) is not method for name, method in written)


def _methods(cls: type) -> tuple[tuple[str, object], ...] | None:
    """Methods of a class of this file or of the library by name; ``None`` where one of them comes from elsewhere."""
    if cls in _WRITTEN:
        return _WRITTEN[cls]
    names = [
        name
        for base in cls.__mro__
        if base.__module__ == __name__ or base.__module__.startswith(_LIBRARY)
        for name, value in vars(base).items()
        if hasattr(value, "__get__") and not name.startswith("__")
    ]
    methods = tuple((name, getattr(cls, name)) for name in names)
    if not all(_as_written(method) for _, method in methods):
        return None
    if not torch.compiler.is_compiling():  # no side effects in a graph
        _WRITTEN[cls] = methods
    return methods


def _as_written(method: object) -> bool:
    """Whether it is a function of this file or of the library that wraps no other."""
    if not isinstance(method, FunctionType) or hasattr(method, "__wrapped__"):
        return False
    return method.__module__ == __name__ or method.__module__.startswith(_LIBRARY)


def metric_of(distance: Any) -> Metric | None:
    """What the kernels compute for this distance object, as it is now; ``None``: it must be called."""
    kind = _kind(distance, "pytorch_metric_learning.distances.")
    if kind not in ("LpDistance", "CosineSimilarity", "DotProductSimilarity") or _adapted(distance):
        return None
    return _metric_of(distance, kind)


def _metric_of(distance: Any, kind: str) -> Metric | None:
    """By its attributes alone."""
    normalize, power, stats = distance.normalize_embeddings, distance.power, getattr(distance, "collect_stats", False)
    if not isinstance(normalize, bool) or distance.p != 2 or stats or distance.is_inverted is (kind == "LpDistance"):
        return None
    if kind == "LpDistance" and power in (1, 2):
        return Metric("euclidean" if power == 1 else "squared_euclidean", normalize)
    if kind == "LpDistance" or power != 1:
        return None
    return Metric("cosine", False) if kind == "CosineSimilarity" and normalize else Metric("inner_product", normalize)


def reduction_of(reducer: Any) -> str | None:
    """The reduction that this reducer object is, as it is now; ``None``: it must be called."""
    reduction = _REDUCTIONS.get(_kind(reducer, "pytorch_metric_learning.reducers."))
    if reduction is None or getattr(reducer, "collect_stats", False) or _adapted(reducer):
        return None
    if reduction == "mean_nonzero" and (
        type(reducer.low) not in (int, float) or reducer.low or reducer.high is not None
    ):
        return None
    return reduction


class LpDistance(nn.Module):
    """Euclidean distance, as the library's object of this name has it: attributes to read and to set, and a call."""

    is_inverted = False

    def __init__(self, normalize_embeddings: bool = True, power: int = 1) -> None:
        super().__init__()
        self.normalize_embeddings = normalize_embeddings
        self.p = 2
        self.power = power

    def forward(self, query_emb: Tensor, ref_emb: Tensor | None = None) -> Tensor:
        """Distances, or similarities where ``is_inverted``, [N, M] of rows [N, D] and others [M, D]."""
        metric = _metric_of(self, type(self).__qualname__)
        if metric is None:
            raise ValueError(f"distance must have p = 2 and a power of 1 or 2; got p={self.p}, power={self.power}")
        rows = metric.rows(query_emb)
        matrix = distance_matrix(rows, rows if ref_emb is None else metric.rows(ref_emb), metric.distance)
        if not self.is_inverted:
            return matrix
        return 1 - matrix if metric.distance == "cosine" else -matrix

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        """By how much ``x`` is farther than ``y``."""
        return y - x if self.is_inverted else x - y

    def smallest_dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The nearer of both, entry by entry."""
        return torch.maximum(x, y) if self.is_inverted else torch.minimum(x, y)

    def largest_dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The farther of both, entry by entry."""
        return torch.minimum(x, y) if self.is_inverted else torch.maximum(x, y)

    def extra_repr(self) -> str:
        return f"normalize_embeddings={self.normalize_embeddings}, power={self.power}"


class DotProductSimilarity(LpDistance):
    """Inner products, of rows of length 1 unless told otherwise."""

    is_inverted = True


class CosineSimilarity(DotProductSimilarity):
    """Cosines; that of a zero row is 0."""


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """[T] to a scalar, 0 for no losses."""
    if reduction == "sum":
        return losses.sum()
    # Counted by the graph, since where it is traced the number of losses is not known.
    count = (losses > 0 if reduction == "mean_nonzero" else torch.ones_like(losses)).sum()
    return losses.sum() / count.clamp_min(1)


class MeanReducer(nn.Module):
    """The mean of the losses. Sub-losses are reduced one by one and added up."""

    reduction = "mean"

    def forward(self, loss_dict: Mapping[str, Any], embeddings: Tensor, labels: Tensor | None) -> Tensor:
        """Of ``{name: {"losses", "indices", "reduction_type"}}``, as losses of the library hand it over."""
        total = (embeddings * 0).sum()  # joined to the graph, whatever was mined
        for entry in loss_dict.values():
            losses = entry["losses"]
            if isinstance(losses, Tensor):
                whole = entry["reduction_type"] == "already_reduced"
                total = total + (losses if whole else reduced(losses, self.reduction))
        return total


class SumReducer(MeanReducer):
    """The sum of the losses."""

    reduction = "sum"


class AvgNonZeroReducer(MeanReducer):
    """The mean of the losses above 0."""

    reduction = "mean_nonzero"
    low = 0
    high = None


class LossOfEachTriplet(nn.Module):
    """No reduction: the losses [T], not in a dict as the library's ``DoNothingReducer`` has them."""

    def forward(self, loss_dict: Mapping[str, Any], embeddings: Tensor, labels: Tensor | None) -> Tensor:
        """The losses of the first entry; none where nothing was mined."""
        losses = next(iter(loss_dict.values()))["losses"]
        return losses if isinstance(losses, Tensor) else embeddings[:0].sum(1)


def distance_object(distance: object) -> Any:
    """The object that a name stands for; ``None`` and objects as they are."""
    if isinstance(distance, str) and distance in DISTANCES:
        if distance == "cosine":
            return CosineSimilarity()
        if distance == "inner_product":
            return DotProductSimilarity(normalize_embeddings=False)
        return LpDistance(normalize_embeddings=False, power=1 if distance == "euclidean" else 2)
    if distance is None or (callable(distance) and not isinstance(distance, type) and hasattr(distance, "is_inverted")):
        return distance
    raise ValueError(
        f"distance must be None, one of {', '.join(DISTANCES)}, or a distance object of pytorch-metric-learning; "
        f"got {distance!r}"
    )


def reducer_object(reducer: object) -> Any:
    """The object that a name stands for; ``None`` and objects as they are."""
    if isinstance(reducer, str) and reducer in REDUCTIONS:
        return {
            "none": LossOfEachTriplet,
            "sum": SumReducer,
            "mean": MeanReducer,
            "mean_nonzero": AvgNonZeroReducer,
        }[reducer]()
    if reducer is None or (callable(reducer) and not isinstance(reducer, type)):
        return reducer
    raise ValueError(
        f"reducer must be None, one of {', '.join(REDUCTIONS)}, or a reducer object of pytorch-metric-learning; "
        f"got {reducer!r}"
    )


def checked_margin(margin: object) -> float | Tensor:
    """A finite number, or a tensor of real numbers."""
    if not isinstance(margin, Tensor):
        return check_margin(margin)
    if margin.is_complex() or margin.dtype == torch.bool:
        raise TypeError(f"margin must be a real number or a tensor of such; got a tensor of {margin.dtype}")
    if margin.numel() == 1 and margin.device.type == "cpu":
        check_margin(margin.item())
    return margin


def one_margin(margin: float | Tensor) -> float | Tensor:
    """A number, or a tensor of one element as one of no dimension, which changes no shape."""
    if not isinstance(margin, Tensor):
        return margin
    if margin.numel() != 1:
        raise ValueError(f"margin must be one number; got a tensor of shape {list(margin.shape)}")
    return margin.reshape(())


def margin_of_each(margin: float | Tensor, triplets: Tensor) -> float | Tensor:
    """One for all of the triplets [T], or one for each, [T]."""
    if not isinstance(margin, Tensor) or margin.numel() == 1:
        return one_margin(margin)
    # How many were mined is not known where the graph is made.
    if margin.ndim != 1 or not (torch.compiler.is_compiling() or margin.shape == triplets.shape):
        raise ValueError(f"margin must be one number or have shape [T]; got {list(margin.shape)}")
    return margin


def margin_number(margin: float | Tensor) -> float | None:
    """The margin as a number, where reading it loses no gradient and does not wait for a device."""
    if not isinstance(margin, Tensor):
        return margin
    read = margin.numel() == 1 and margin.device.type == "cpu" and not margin.requires_grad
    return float(margin) if read and not torch.compiler.is_compiling() else None
