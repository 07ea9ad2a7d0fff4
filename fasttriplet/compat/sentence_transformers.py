"""The batch losses of sentence-transformers 5: change the import, keep the rest of the training script.

An anchor without a positive keeps its place in the mean, with a positive at distance 0, and a batch of one class has
the loss that the original has. sentence-transformers is not imported here: the losses take its distance functions,
or names, and any model that maps features to ``{"sentence_embedding": [N, D]}``.

Deviations, of all four:

- Distances are exact: from differences, in float64 where rows are chosen, not from a float32 matrix of dot products.
- ``distance_metric`` is one of the original's two functions or a name; other callables are refused, since a matrix of
  distances is what is never made here.
- An empty mean (no positive pair in the batch) is 0 where the original gives NaN.
- Where a triplet's loss is exactly 0 its gradient is 0; the original gives all or half of it there.
- float16 and bfloat16 embeddings give a float32 loss.

Source: https://sbert.net/docs/package_reference/sentence_transformer/losses.html.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from fasttriplet import functional
from fasttriplet.check import check_choice, check_margin
from fasttriplet.compat._labels import integer_labels
from fasttriplet.compat._whole_batch import hard_loss, semi_hard_loss

DISTANCES = ("euclidean", "squared_euclidean", "cosine")

_CITATION = """
@misc{hermans2017defense,
    title={In Defense of the Triplet Loss for Person Re-Identification},
    author={Alexander Hermans and Lucas Beyer and Bastian Leibe},
    year={2017},
    eprint={1703.07737},
    archivePrefix={arXiv},
    primaryClass={cs.CV}
}
"""

#: A name of ``DISTANCES`` or a function of the original.
DistanceMetric = str | Callable[..., Tensor]


class BatchHardTripletLossDistanceFunction:
    """The original's distance functions, as names: they are chosen here, not called."""

    eucledian_distance = "euclidean"
    cosine_distance = "cosine"


def _distance_name(metric: object) -> str:
    """The name of a distance given by name, by the original's function or by that with ``squared=True`` bound."""
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
        if name == "eucledian_distance" and bound.keys() <= {"squared"}:
            return "squared_euclidean" if bound.get("squared") else "euclidean"
    raise ValueError(
        f"distance_metric must be one of {', '.join(DISTANCES)}, or a function of sentence-transformers' "
        f"BatchHardTripletLossDistanceFunction; got {metric!r}"
    )


class _BatchLoss(nn.Module):
    """A loss of a whole batch of sentences: holds the model, embeds the features and compares all with all."""

    def __init__(self, model: nn.Module, distance_metric: DistanceMetric) -> None:
        super().__init__()
        self.sentence_embedder = model
        self.distance_metric = _distance_name(distance_metric)

    def _embed(self, sentence_features: Iterable[dict[str, Tensor]]) -> Tensor:
        """[N, D], from the first and only column of the batch."""
        embeddings: Tensor = self.sentence_embedder(next(iter(sentence_features)))["sentence_embedding"]
        return embeddings

    def get_config_dict(self) -> dict[str, object]:
        """The arguments, as the trainer's model card prints them."""
        return {"distance_metric": self.distance_metric}

    @property
    def citation(self) -> str:
        """BibTeX of the method, for the trainer's model card."""
        return _CITATION

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.get_config_dict().items())


class _MarginLoss(_BatchLoss):
    def __init__(
        self,
        model: nn.Module,
        distance_metric: DistanceMetric = BatchHardTripletLossDistanceFunction.eucledian_distance,
        margin: float = 5,
    ) -> None:
        super().__init__(model, distance_metric)
        self.triplet_margin = check_margin(margin)

    def get_config_dict(self) -> dict[str, object]:
        """The arguments, as the trainer's model card prints them."""
        return {**super().get_config_dict(), "margin": self.triplet_margin}


class BatchHardTripletLoss(_MarginLoss):
    """Each sentence against its farthest positive and its nearest negative of the batch; the mean over all.

    Args:
        model: maps features to a dict with ``"sentence_embedding"`` [N, D].
        distance_metric: ``"euclidean"`` (default), ``"squared_euclidean"`` or ``"cosine"``, or a function of
            ``BatchHardTripletLossDistanceFunction``, the original's or this module's.
        margin: finite number. Default 5.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a distance that is not one of these, or a margin that is not finite.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.sentence_transformers import BatchHardTripletLoss
        >>> class Model(torch.nn.Module):
        ...     def forward(self, features):
        ...         return {"sentence_embedding": features["x"]}
        >>> features = {"x": torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0]])}
        >>> loss = BatchHardTripletLoss(Model(), margin=1)
        >>> round(loss([features], torch.tensor([0, 0, 1])).item(), 4)  # the last has no positive, and counts
        0.0
        >>> round(BatchHardTripletLoss(Model(), margin=3)([features], torch.tensor([0, 0, 1])).item(), 4)
        0.6126

    Deviations: those of the module :mod:`fasttriplet.compat.sentence_transformers`.

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737.
    """

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss, a scalar, of features as the model takes them and ``labels`` [N], compared with ``==``."""
        return self.batch_hard_triplet_loss(labels, self._embed(sentence_features))

    def batch_hard_triplet_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The loss, a scalar, of ``labels`` [N] and ``embeddings`` [N, D]."""
        return hard_loss(embeddings, integer_labels(labels), margin=self.triplet_margin, distance=self.distance_metric)


class BatchHardSoftMarginTripletLoss(_BatchLoss):
    """:class:`BatchHardTripletLoss` with softplus in place of the margin.

    Args:
        model: maps features to a dict with ``"sentence_embedding"`` [N, D].
        distance_metric: as in :class:`BatchHardTripletLoss`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a distance that is not one of these.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.sentence_transformers import BatchHardSoftMarginTripletLoss
        >>> loss = BatchHardSoftMarginTripletLoss(torch.nn.Identity(), distance_metric="cosine")
        >>> round(loss([{"sentence_embedding": torch.eye(4)}], torch.arange(4) // 2).item(), 4)  # log(2)
        0.6931

    Deviations: those of the module :mod:`fasttriplet.compat.sentence_transformers`, and that ``log(1 + exp(x))`` does
    not overflow: the original is infinite from x = 89 on in float32.

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737.
    """

    def __init__(
        self,
        model: nn.Module,
        distance_metric: DistanceMetric = BatchHardTripletLossDistanceFunction.eucledian_distance,
    ) -> None:
        super().__init__(model, distance_metric)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss, a scalar, of features as the model takes them and ``labels`` [N], compared with ``==``."""
        return self.batch_hard_triplet_soft_margin_loss(labels, self._embed(sentence_features))

    def batch_hard_triplet_soft_margin_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The loss, a scalar, of ``labels`` [N] and ``embeddings`` [N, D]."""
        return hard_loss(
            embeddings, integer_labels(labels), margin=0.0, distance=self.distance_metric, soft_margin=True
        )


class BatchSemiHardTripletLoss(_MarginLoss):
    """Each positive pair with the nearest negative that is farther than the positive, or else the farthest negative.

    The mean is that over all ordered positive pairs; a batch of one class takes 0 for the distance of the negative it
    lacks, as the original does.

    Args:
        model: maps features to a dict with ``"sentence_embedding"`` [N, D].
        distance_metric: as in :class:`BatchHardTripletLoss`.
        margin: finite number. Default 5.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a distance that is not one of these, or a margin that is not finite.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.sentence_transformers import BatchSemiHardTripletLoss
        >>> loss = BatchSemiHardTripletLoss(torch.nn.Identity(), margin=1)
        >>> rows = torch.tensor([[0.0], [1.0], [1.5], [9.0]])
        >>> loss([{"sentence_embedding": rows}], torch.tensor([0, 0, 1, 2])).item()  # pairs 0-1 and 1-0
        0.25

    Deviations: those of the module :mod:`fasttriplet.compat.sentence_transformers`.

    Source: F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering",
    2015, https://arxiv.org/abs/1503.03832.
    """

    @property
    def margin(self) -> float:
        """The margin, by the name that it has in the original."""
        return self.triplet_margin

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss, a scalar, of features as the model takes them and ``labels`` [N], compared with ``==``."""
        return self.batch_semi_hard_triplet_loss(labels, self._embed(sentence_features))

    def batch_semi_hard_triplet_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The loss, a scalar, of ``labels`` [N] and ``embeddings`` [N, D]."""
        return semi_hard_loss(
            embeddings, integer_labels(labels), margin=self.triplet_margin, distance=self.distance_metric
        )


class BatchAllTripletLoss(_MarginLoss):
    """All triplets of the batch; the mean over those whose loss is above 0.

    Args:
        model: maps features to a dict with ``"sentence_embedding"`` [N, D].
        distance_metric: as in :class:`BatchHardTripletLoss`.
        margin: finite number. Default 5.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a distance that is not one of these, or a margin that is not finite.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.sentence_transformers import BatchAllTripletLoss
        >>> loss = BatchAllTripletLoss(torch.nn.Identity(), margin=1)
        >>> rows = torch.tensor([[0.0], [1.0], [1.5], [9.0]])
        >>> loss([{"sentence_embedding": rows}], torch.tensor([0, 0, 1, 2])).item()  # two are above 0: 0.5 and 1.5
        1.0

    Deviations: those of the module :mod:`fasttriplet.compat.sentence_transformers`. The original counts losses above
    1e-16, here those above 0; the original makes an [N, N, N] array.

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737.
    """

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss, a scalar, of features as the model takes them and ``labels`` [N], compared with ``==``."""
        return self.batch_all_triplet_loss(labels, self._embed(sentence_features))

    def batch_all_triplet_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The loss, a scalar, of ``labels`` [N] and ``embeddings`` [N, D]."""
        return functional.batch_all_triplet_loss(
            embeddings,
            integer_labels(labels),
            margin=self.triplet_margin,
            distance=self.distance_metric,
            reduction="mean_nonzero",
        )
