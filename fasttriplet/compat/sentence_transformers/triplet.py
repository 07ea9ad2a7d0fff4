"""The loss of explicit triplets: three columns of sentences, one triplet a row."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fasttriplet import functional
from fasttriplet.check import check_dense, check_rows
from fasttriplet.compat._margin import Margin, margin_of
from fasttriplet.compat._pairs import full_precision
from fasttriplet.compat.sentence_transformers.batch import CITATION
from fasttriplet.compat.sentence_transformers.distances import (
    METRICS,
    TripletDistanceMetric,
    name_of,
    triplet_distance,
)
from fasttriplet.pairing import widened

#: Where newer versions of the original have the forward pass of several columns.
_MERGED = "sentence_transformers.base.losses.merged_forward"


class TripletLoss(nn.Module):
    """Each row of three columns is a triplet: anchor, positive and negative. The mean of
    ``max(d(a, p) - d(a, n) + margin, 0)`` over all.

    Cosine and Euclidean distances are those of :func:`fasttriplet.triplet_margin_loss`, in one fused pass.
    The Manhattan distance and functions of one's own are computed in plain PyTorch, in memory O(T * D), as in the
    original.

    Args:
        model: maps features to a dict with ``"sentence_embedding"`` [T, D].
        distance_metric: a member of ``TripletDistanceMetric``, the original's or this module's, or its name:
            ``"euclidean"`` (default), ``"squared_euclidean"``, ``"cosine"`` or ``"manhattan"``; or a function of two
            tensors [T, D] that gives distances [T] or [T, 1]. It is called with rows in float32 at least, and autocast
            off.
        triplet_margin: finite number, or a tensor of one that needs no gradient. Default 5.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a distance that is not one of these, or a margin that is not finite.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.sentence_transformers import TripletLoss
        >>> loss = TripletLoss(torch.nn.Identity(), triplet_margin=1)
        >>> columns = [torch.tensor(rows) for rows in ([[0.0], [4.0]], [[1.0], [5.0]], [[3.0], [4.5]])]
        >>> loss([{"sentence_embedding": rows} for rows in columns], None).item()  # (0 + 1.5) / 2
        0.75

    Deviations: distances are exact, in float64 where they are fused. The gradient at distance 0 is 0; by cosine that of
    a zero row is 0 as well, where the original's is some 1e12 times that of others. float16 and bfloat16 embeddings
    give a float32 loss. A margin that is a tensor is read as a number; one that requires grad is refused. From 5.0 to
    5.3 the original takes minus the distance as the distance in its Euclidean and its Manhattan metric, so that
    positives are pushed away; its members of that time are distances here.

    Source: https://sbert.net/docs/package_reference/sentence_transformer/losses.html.
    """

    __jit_unused_properties__: tuple[str, ...] = ("distance_metric", "citation")

    def __init__(
        self,
        model: nn.Module,
        distance_metric: str | Callable[[Tensor, Tensor], Tensor] = TripletDistanceMetric.EUCLIDEAN,
        triplet_margin: Margin = 5,
    ) -> None:
        super().__init__()
        self.model = model
        self.distance_metric = distance_metric
        self.triplet_margin = margin_of(triplet_margin, "triplet_margin")

    @property
    def distance_metric(self) -> str | Callable[[Tensor, Tensor], Tensor]:
        """As it was given; another may be set at any time."""
        return self._distance_metric

    @distance_metric.setter
    def distance_metric(self, metric: str | Callable[[Tensor, Tensor], Tensor]) -> None:
        self._distance, self._distance_metric = triplet_distance(metric), metric

    @torch.jit.unused  # a model that holds one can be scripted, though what is here cannot
    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        """The loss, a scalar, of the features of three columns; ``labels`` are not used."""
        return self.compute_loss_from_embeddings(_embedded(self.model, sentence_features), labels)

    def compute_loss_from_embeddings(self, embeddings: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """The loss, a scalar, of anchors, positives and negatives, [T, D] each; ``labels`` are not used."""
        if len(embeddings) != 3:
            raise ValueError(f"embeddings must be three columns, anchor, positive and negative; got {len(embeddings)}")
        for name, rows in zip(("anchor", "positive", "negative"), embeddings, strict=True):
            check_rows(name, rows, "T")
        anchor, positive, negative = embeddings
        margin, metric = margin_of(self.triplet_margin, "triplet_margin"), self._distance_metric
        if self._distance is not None and self._distance != "manhattan":
            return functional.triplet_margin_loss(anchor, positive, negative, margin=margin, distance=self._distance)
        if self._distance == "manhattan" or isinstance(metric, str):
            metric = TripletDistanceMetric.MANHATTAN
        if not anchor.shape == positive.shape == negative.shape:  # none is broadcast
            raise ValueError(
                f"anchor, positive and negative must have one shape [T, D]; got anchor {list(anchor.shape)}, positive "
                f"{list(positive.shape)}, negative {list(negative.shape)}"
            )
        anchor, positive, negative = widened(anchor), widened(positive), widened(negative)
        with full_precision(anchor):  # the function may be anybody's
            nearby, apart = (_of_triplets(metric(anchor, others), anchor.shape[0]) for others in (positive, negative))
        return torch.relu(nearby - apart + margin).mean()

    def get_config_dict(self) -> dict[str, Any]:
        """The arguments, as the trainer's model card prints them."""
        metric = name_of(self._distance_metric)
        for member, distance in METRICS.items():
            if distance == self._distance:
                metric = f"TripletDistanceMetric.{member}"
        return {"distance_metric": metric, "triplet_margin": self.triplet_margin}

    @property
    def citation(self) -> str:
        """BibTeX of the method, for the trainer's model card."""
        return CITATION

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.get_config_dict().items())


def _of_triplets(distances: Tensor, triplets: int) -> Tensor:
    """Distances [T] of what a function gave, [T] or [T, 1]; a matrix of all with all would be averaged in silence."""
    check_dense("what distance_metric gives", distances)
    if distances.numel() != triplets:
        raise ValueError(
            f"distance_metric must give distances [{triplets}], one a triplet; got {list(distances.shape)}"
        )
    return distances.flatten()


def _embedded(model: nn.Module, sentence_features: Iterable[dict[str, Tensor]]) -> list[Tensor]:
    """The embeddings [T, D] of every column; in as many passes as the original takes, where that is imported.

    In a graph, which the original's own pass cannot be part of, each column takes its own.
    """
    merged = None if torch.compiler.is_compiling() else getattr(sys.modules.get(_MERGED), "embed_columns", None)
    if merged is not None:
        columns: list[Tensor] = merged(model, sentence_features)
        return columns
    return [model(features)["sentence_embedding"] for features in sentence_features]
