"""Triplet losses for ``model.compile`` of Keras 3 on its PyTorch backend, with the numbers of TensorFlow Addons'.

The model's output is the embeddings [N, D], the target the labels [N] or [N, 1]. Importing this module imports Keras,
and chooses its PyTorch backend where Keras has not been imported yet and the environment does not say otherwise.

Labels reach the classes as they are given, whatever the ``dtype`` of the loss: integers are compared as integers. Keras
itself casts the labels of a function to its ``floatx`` before it calls it, which is float32 unless it is set otherwise.
Integers beyond a limit are then no longer told apart: 2^24 in float32, 2048 in float16, 256 in bfloat16.

Deviations from TensorFlow Addons: those of :mod:`fasttriplet.compat.tfa`.

Source: https://www.tensorflow.org/addons/api_docs/python/tfa/losses, https://keras.io/api/losses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fasttriplet.check import check_bool
from fasttriplet.compat import tfa
from fasttriplet.compat._labels import label_vector
from fasttriplet.compat._margin import Margin, margin_of
from fasttriplet.compat._whole_batch import hard_loss, semi_hard_loss

if "keras" not in sys.modules:
    os.environ.setdefault("KERAS_BACKEND", "torch")
try:
    import keras
except ImportError as error:
    raise ImportError(
        "fasttriplet.compat.keras needs Keras 3 (pip install keras) on its PyTorch backend (KERAS_BACKEND=torch in the "
        f"environment before Keras is imported); importing Keras says: {error}"
    ) from error
if keras.backend.backend() != "torch":
    raise RuntimeError(
        "fasttriplet.compat.keras needs Keras on its PyTorch backend: set KERAS_BACKEND=torch before Keras is "
        f"imported; got {keras.backend.backend()}"
    )


def _whole(labels: Any, rows: Tensor) -> Tensor:
    """Labels [N] as they are given: without a dtype Keras keeps theirs."""
    return label_vector("y_true", keras.ops.convert_to_tensor(labels), "y_pred", rows)


class _TripletLoss(keras.losses.Loss):
    #: Of labels [N] and rows [N, D]: losses, and the anchor of each; ``None``: they are those of the anchors.
    _losses: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]

    def __init__(self, margin: Margin, distance_metric: str, **options: Any) -> None:
        super().__init__(**options)
        self.margin = margin_of(margin)
        tfa.distance_of(distance_metric)
        self.distance_metric = distance_metric

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss of labels ``y_true`` [N] or [N, 1] and embeddings ``y_pred`` [N, D].

        ``sample_weight`` is a number or N of them, the weights of anchors.
        """
        mask = getattr(y_pred, "_keras_mask", None)
        with keras.name_scope(self.name):
            rows = keras.ops.convert_to_tensor(y_pred, dtype=self.dtype)
            losses, anchors = self._losses(_whole(y_true, rows), rows)
            losses = keras.ops.cast(losses, self.dtype)
            weights = _of_anchors("sample_weight", sample_weight, rows, anchors)
            counted = _of_anchors("the mask of y_pred", mask, rows, anchors)
            return _reduced(losses, weights, counted, self.reduction)

    def call(self, y_true: Any, y_pred: Tensor) -> Tensor:
        """The losses that are reduced, of labels ``y_true`` [N] or [N, 1] and embeddings ``y_pred`` [N, D]."""
        return self._losses(_whole(y_true, y_pred), y_pred)[0]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        return {**super().get_config(), "margin": margin_of(self.margin), "distance_metric": self.distance_metric}


def _of_anchors(name: str, values: Any, rows: Tensor, anchors: Tensor | None) -> Tensor | None:
    """``values`` of the N anchors, or one for all, of each loss, float32 at least; ``None`` stays ``None``."""
    if values is None:
        return None
    dtype = torch.promote_types(rows.dtype, torch.float32)
    given = keras.ops.convert_to_tensor(values, keras.backend.standardize_dtype(dtype)).to(rows.device)
    if given.numel() != 1 and (given.numel() != rows.shape[0] or given.ndim > 2):
        raise ValueError(f"{name} must be one number or have shape [{rows.shape[0]}]; got {list(given.shape)}")
    given = given.reshape(-1).expand(rows.shape[0])
    return given if anchors is None else given.index_select(0, anchors)


def _reduced(losses: Tensor, weights: Tensor | None, counted: Tensor | None, reduction: str | None) -> Tensor:
    """As Keras reduces losses; an empty mean is 0, joined to the graph."""
    if counted is not None:
        weights = counted if weights is None else weights * counted
    if weights is not None:
        losses = losses * weights.to(losses.dtype)
    if reduction in (None, "none"):
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    divisors = weights if reduction == "mean_with_sample_weight" else counted
    dtype = torch.promote_types(losses.dtype, torch.float32)
    number = (torch.ones_like(losses) if divisors is None else divisors).sum(dtype=dtype)
    return torch.where(number == 0, 0 * total, total / torch.where(number == 0, 1, number).to(total.dtype))


@keras.saving.register_keras_serializable(package="fasttriplet")
class TripletHardLoss(_TripletLoss):
    """Each row against its farthest positive and its nearest negative of the batch.

    Args:
        margin: finite number, or a tensor of one that needs no gradient; not used when ``soft`` is true. Default 1.
        soft: softplus in place of the margin. Default false.
        distance_metric: ``"L2"`` (default), ``"squared-L2"`` or ``"angular"`` (1 - cos).
        name, reduction, dtype: as in ``keras.losses.Loss``. What is reduced are the losses of the N anchors, and
            ``sample_weight`` [N] are weights of anchors.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import numpy
        >>> from fasttriplet.compat.keras import TripletHardLoss
        >>> loss = TripletHardLoss(margin=0.5)
        >>> float(loss(numpy.array([0, 0, 1]), numpy.array([[0.0], [1.0], [1.25]])))  # (0.25 + 1.25 + 0.25) / 3
        0.5833333134651184

    Deviations: those of the module :mod:`fasttriplet.compat.keras`.

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737.
    """

    def __init__(
        self,
        margin: Margin = 1.0,
        soft: bool = False,
        distance_metric: str = "L2",
        name: str | None = "triplet_hard_loss",
        reduction: str | None = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(margin, distance_metric, name=name, reduction=reduction, dtype=dtype)
        self.soft = check_bool("soft", soft)

    def _losses(self, labels: Tensor, rows: Tensor) -> tuple[Tensor, None]:
        losses = hard_loss(
            rows,
            labels,
            margin=margin_of(self.margin),
            distance=tfa.distance_of(self.distance_metric),
            soft_margin=check_bool("soft", self.soft),
            reduction="none",
        )
        return losses, None

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        return {**super().get_config(), "soft": self.soft}


@keras.saving.register_keras_serializable(package="fasttriplet")
class TripletSemiHardLoss(_TripletLoss):
    """Each positive pair with the nearest negative that is farther than the positive, or else the farthest negative.

    The value is the mean over all ordered positive pairs of the batch.

    Args:
        margin: finite number, or a tensor of one that needs no gradient. Default 1.
        distance_metric: ``"L2"`` (default), ``"squared-L2"`` or ``"angular"`` (1 - cos).
        name, reduction, dtype: as in ``keras.losses.Loss``. What is reduced are the losses of the T ordered positive
            pairs, by anchor, then positive; ``sample_weight`` [N] and ``class_weight`` are weights of anchors, and each
            pair has its anchor's: ``"sum_over_batch_size"`` and ``"mean"`` divide the weighted sum by T,
            ``"mean_with_sample_weight"`` by the sum of the pairs' weights, ``"sum"`` by nothing, ``None`` gives [T].

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import numpy
        >>> from fasttriplet.compat.keras import TripletSemiHardLoss
        >>> loss = TripletSemiHardLoss(margin=0.5)
        >>> float(loss(numpy.array([0, 0, 1]), numpy.array([[0.0], [1.0], [1.25]])))  # (0.25 + 1.25) / 2
        0.75

    Deviations: those of the module :mod:`fasttriplet.compat.keras`.

    Source: F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering",
    2015, https://arxiv.org/abs/1503.03832.
    """

    def __init__(
        self,
        margin: Margin = 1.0,
        distance_metric: str = "L2",
        name: str | None = "triplet_semihard_loss",
        reduction: str | None = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(margin, distance_metric, name=name, reduction=reduction, dtype=dtype)

    def _losses(self, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        margin, distance = margin_of(self.margin), tfa.distance_of(self.distance_metric)
        return semi_hard_loss(rows, labels, margin=margin, distance=distance, reduction="none")


@keras.saving.register_keras_serializable(package="fasttriplet")
def triplet_hard_loss(
    y_true: Any, y_pred: Any, margin: Margin = 1.0, soft: bool = False, distance_metric: str = "L2"
) -> Tensor:
    """:func:`fasttriplet.compat.tfa.triplet_hard_loss` of whatever Keras takes for tensors, arrays too.

    Args: as there.

    Returns:
        The mean over all rows, a scalar.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value.

    Example:
        >>> import numpy
        >>> from fasttriplet.compat.keras import triplet_hard_loss
        >>> float(triplet_hard_loss(numpy.array([0, 0, 1]), numpy.array([[0.0], [1.0], [1.25]]), margin=0.5))
        0.5833333333333334

    Deviations: those of the module :mod:`fasttriplet.compat.keras`.
    """
    labels, rows = keras.ops.convert_to_tensor(y_true), keras.ops.convert_to_tensor(y_pred)
    return tfa.triplet_hard_loss(labels, rows, margin, soft, distance_metric)


@keras.saving.register_keras_serializable(package="fasttriplet")
def triplet_semihard_loss(y_true: Any, y_pred: Any, margin: Margin = 1.0, distance_metric: str = "L2") -> Tensor:
    """:func:`fasttriplet.compat.tfa.triplet_semihard_loss` of whatever Keras takes for tensors, arrays too.

    Args: as there.

    Returns:
        The mean over all ordered positive pairs, a scalar.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value.

    Example:
        >>> import numpy
        >>> from fasttriplet.compat.keras import triplet_semihard_loss
        >>> float(triplet_semihard_loss(numpy.array([0, 0, 1]), numpy.array([[0.0], [1.0], [1.25]]), margin=0.5))
        0.75

    Deviations: those of the module :mod:`fasttriplet.compat.keras`.
    """
    labels, rows = keras.ops.convert_to_tensor(y_true), keras.ops.convert_to_tensor(y_pred)
    return tfa.triplet_semihard_loss(labels, rows, margin, distance_metric)
