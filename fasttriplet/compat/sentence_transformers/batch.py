"""The losses of a whole batch of labelled sentences, each compared with all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fasttriplet import functional
from fasttriplet.check import check_bool, check_rows
from fasttriplet.compat._labels import label_vector
from fasttriplet.compat._margin import Margin, margin_of
from fasttriplet.compat._whole_batch import hard_loss, semi_hard_loss
from fasttriplet.compat.sentence_transformers.distances import (
    BatchHardTripletLossDistanceFunction,
    DistanceMetric,
    batch_distance,
    name_of,
)
from fasttriplet.distributed.agreement import Statement, agreed
from fasttriplet.distributed.group import Group

CITATION = """
@misc{hermans2017defense,
    title={In Defense of the Triplet Loss for Person Re-Identification},
    author={Alexander Hermans and Lucas Beyer and Bastian Leibe},
    year={2017},
    eprint={1703.07737},
    archivePrefix={arXiv},
    primaryClass={cs.CV}
}
"""


def _classes(labels: Tensor, embeddings: Tensor) -> Tensor:
    """Integers [N] that are equal where ``labels`` are: one a row, in whatever shape, as the original has them."""
    check_rows("embeddings", embeddings)
    if isinstance(labels, Tensor) and labels.ndim != 1 and labels.numel() == embeddings.shape[0]:
        labels = labels.reshape(-1)
    return label_vector("labels", labels, "embeddings", embeddings)


class _BatchLoss(nn.Module):
    """A loss of a whole batch of sentences: holds the model, embeds the features and compares all with all."""

    #: The method that has the loss of labels and embeddings, by the original's name.
    _loss: ClassVar[str]
    __jit_unused_properties__: tuple[str, ...] = ("distance_metric", "citation")

    def __init__(
        self,
        model: nn.Module,
        distance_metric: DistanceMetric = BatchHardTripletLossDistanceFunction.euclidean_distance,
        margin: Margin = 5,
        *,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__()
        self.sentence_embedder = model
        self.distance_metric = distance_metric
        self.triplet_margin = margin_of(margin)
        self.gather_across_devices = check_bool("gather_across_devices", gather_across_devices)

    @property
    def distance_metric(self) -> DistanceMetric:
        """As it was given; another may be set at any time."""
        return self._distance_metric

    @distance_metric.setter
    def distance_metric(self, metric: DistanceMetric) -> None:
        self._distance, self._distance_metric = batch_distance(metric), metric

    @torch.jit.unused  # a model that holds one can be scripted, though what is here cannot
    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            sentence_features: one column of features, as the model takes them.
            labels: N in any shape and of any dtype, compared with ``==``.
        """
        embeddings: Tensor = self.sentence_embedder(next(iter(sentence_features)))["sentence_embedding"]
        return self.compute_loss_from_embeddings([embeddings], labels)

    def compute_loss_from_embeddings(self, embeddings: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss, a scalar, of one column of embeddings [N, D] and N ``labels``."""
        loss: Tensor = getattr(self, self._loss)(labels, embeddings[0])
        return loss

    def _checked(self, labels: Tensor, embeddings: Tensor) -> tuple[Tensor, float]:
        """Integer labels and the margin; what is wrong with those of one process is an error in all that gather."""

        def checked() -> tuple[Statement, tuple[Tensor, float]]:
            classes = _classes(labels, embeddings)
            alike: dict[str, object] = {"the dtype of labels": labels.dtype}  # compared by bits: 1 and 1.0 differ
            return Statement(alike, len(classes)), (classes, margin_of(self.triplet_margin))

        group = self._group()
        return checked()[1] if group is None else agreed(Group(group), checked)[1]

    def _group(self) -> Any:
        """All processes, where the batch is that of all devices and there are several."""
        several = self.gather_across_devices and dist.is_available() and dist.is_initialized()
        return dist.group.WORLD if several else None

    def get_config_dict(self) -> dict[str, object]:
        """The arguments, as the trainer's model card prints them."""
        return {"distance_metric": name_of(self.distance_metric), "margin": self.triplet_margin, **self._gathers()}

    def _gathers(self) -> dict[str, object]:
        return {"gather_across_devices": True} if self.gather_across_devices else {}

    @property
    def citation(self) -> str:
        """BibTeX of the method, for the trainer's model card."""
        return CITATION

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.get_config_dict().items())


class BatchHardTripletLoss(_BatchLoss):
    """Each sentence against its farthest positive and its nearest negative of the batch; the mean over all.

    Args:
        model: maps features to a dict with ``"sentence_embedding"`` [N, D].
        distance_metric: ``"euclidean"`` (default), ``"squared_euclidean"`` or ``"cosine"``, or a function of
            ``BatchHardTripletLossDistanceFunction``, the original's or this module's: ``euclidean_distance``, by either
            spelling and also with ``squared=True`` bound by ``functools.partial``, or ``cosine_distance``.
        margin: finite number, or a tensor of one that needs no gradient. Default 5.
        gather_across_devices: the batch is that of all processes, the loss that of one with all of it, and the gradient
            right under ``DistributedDataParallel``; ranks may have different numbers of sentences. Not in the original,
            whose in-batch losses of other kinds have an argument of this name. Default false.

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

    _loss = "batch_hard_triplet_loss"

    def batch_hard_triplet_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The loss, a scalar, of N ``labels`` and ``embeddings`` [N, D]."""
        classes, margin = self._checked(labels, embeddings)
        return hard_loss(embeddings, classes, margin=margin, distance=self._distance, process_group=self._group())

    @staticmethod
    def get_triplet_mask(labels: Tensor) -> Tensor:
        """[N, N, N] bool of ``labels`` [N]: anchor, positive and negative make a triplet. No loss here uses it."""
        positive = BatchHardTripletLoss.get_anchor_positive_triplet_mask(labels)
        return positive[:, :, None] & BatchHardTripletLoss.get_anchor_negative_triplet_mask(labels)[:, None, :]

    @staticmethod
    def get_anchor_positive_triplet_mask(labels: Tensor) -> Tensor:
        """[N, N] bool of ``labels`` [N]: two rows of one label. No loss here uses it."""
        return (labels[:, None] == labels).fill_diagonal_(False)

    @staticmethod
    def get_anchor_negative_triplet_mask(labels: Tensor) -> Tensor:
        """[N, N] bool of ``labels`` [N]: rows of two labels. No loss here uses it."""
        return labels[:, None] != labels


class BatchHardSoftMarginTripletLoss(BatchHardTripletLoss):
    """:class:`BatchHardTripletLoss` with softplus in place of the margin.

    Args:
        model: maps features to a dict with ``"sentence_embedding"`` [N, D].
        distance_metric: as in :class:`BatchHardTripletLoss`.
        gather_across_devices: as in :class:`BatchHardTripletLoss`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a distance that is not one of these.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.sentence_transformers import BatchHardSoftMarginTripletLoss
        >>> loss = BatchHardSoftMarginTripletLoss(torch.nn.Identity(), distance_metric="cosine")
        >>> round(loss([{"sentence_embedding": torch.eye(4)}], torch.arange(4) // 2).item(), 4)  # log(2)
        0.6931

    Deviations: those of the module :mod:`fasttriplet.compat.sentence_transformers`.

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737.
    """

    _loss = "batch_hard_triplet_soft_margin_loss"

    def __init__(
        self,
        model: nn.Module,
        distance_metric: DistanceMetric = BatchHardTripletLossDistanceFunction.euclidean_distance,
        *,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, distance_metric, gather_across_devices=gather_across_devices)

    def batch_hard_triplet_soft_margin_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The loss, a scalar, of N ``labels`` and ``embeddings`` [N, D]."""
        classes, _ = self._checked(labels, embeddings)
        return hard_loss(
            embeddings,
            classes,
            margin=0.0,
            distance=self._distance,
            soft_margin=True,
            process_group=self._group(),
        )

    def get_config_dict(self) -> dict[str, object]:
        """The arguments, as the trainer's model card prints them."""
        return {"distance_metric": name_of(self.distance_metric), **self._gathers()}


class BatchSemiHardTripletLoss(_BatchLoss):
    """Each positive pair with the nearest negative that is farther than the positive, or else the farthest negative.

    The mean is that over all ordered positive pairs; a batch of one class takes 0 for the distance of the negative it
    lacks, as the original does.

    Args:
        model: maps features to a dict with ``"sentence_embedding"`` [N, D].
        distance_metric: as in :class:`BatchHardTripletLoss`.
        margin: finite number, or a tensor of one that needs no gradient. Default 5.
        gather_across_devices: as in :class:`BatchHardTripletLoss`.

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

    _loss = "batch_semi_hard_triplet_loss"
    __jit_unused_properties__: tuple[str, ...] = ("distance_metric", "citation", "margin")

    @property
    def margin(self) -> Margin:
        """The margin, by the name that it has in the original."""
        return self.triplet_margin

    @margin.setter
    def margin(self, margin: Margin) -> None:
        self.triplet_margin = margin_of(margin)

    def batch_semi_hard_triplet_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The loss, a scalar, of N ``labels`` and ``embeddings`` [N, D]."""
        classes, margin = self._checked(labels, embeddings)
        told = dict(margin=margin, distance=self._distance, process_group=self._group())
        loss, _ = semi_hard_loss(embeddings, classes, **told)
        return loss


class BatchAllTripletLoss(_BatchLoss):
    """All triplets of the batch; the mean over those whose loss is above 0.

    Args:
        model: maps features to a dict with ``"sentence_embedding"`` [N, D].
        distance_metric: as in :class:`BatchHardTripletLoss`.
        margin: finite number, or a tensor of one that needs no gradient. Default 5.
        gather_across_devices: as in :class:`BatchHardTripletLoss`.

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
    1e-16, here those above 0.

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737.
    """

    _loss = "batch_all_triplet_loss"

    def batch_all_triplet_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The loss, a scalar, of N ``labels`` and ``embeddings`` [N, D]."""
        classes, margin = self._checked(labels, embeddings)
        return functional.batch_all_triplet_loss(
            embeddings,
            classes,
            margin=margin,
            distance=self._distance,
            reduction="mean_nonzero",
            process_group=self._group(),
        )
