"""Triplet losses for ``model.compile`` of Keras 3 on its PyTorch backend, with the numbers of TensorFlow Addons'.

The model's output is the embeddings [N, D], the target the labels [N] or [N, 1]. Importing this module imports Keras,
and chooses its PyTorch backend where Keras has not been imported yet and the environment does not say otherwise.

Deviations from TensorFlow Addons: those of :mod:`fasttriplet.compat.tfa`, and that Keras 3 casts labels to the dtype of
the loss, float32, in which integers from 2^24 on are no longer told apart.

Source: https://www.tensorflow.org/addons/api_docs/python/tfa/losses, https://keras.io/api/losses.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from torch import Tensor

from fasttriplet.check import check_bool, check_margin
from fasttriplet.compat._labels import label_vector
from fasttriplet.compat._whole_batch import hard_loss, semi_hard_loss
from fasttriplet.compat.tfa import distance_of

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


class _TripletLoss(keras.losses.Loss):
    def __init__(self, margin: float, distance_metric: str, **options: Any) -> None:
        super().__init__(**options)
        self.margin = check_margin(margin)
        self.distance_metric = distance_metric
        self._distance = distance_of(distance_metric)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        return {**super().get_config(), "margin": self.margin, "distance_metric": self.distance_metric}


@keras.saving.register_keras_serializable(package="fasttriplet")
class TripletHardLoss(_TripletLoss):
    """Each row against its farthest positive and its nearest negative of the batch.

    Args:
        margin: finite number; not used when ``soft`` is true. Default 1.
        soft: softplus in place of the margin. Default false.
        distance_metric: ``"L2"`` (default), ``"squared-L2"`` or ``"angular"`` (1 - cos).
        name, reduction, dtype: as in ``keras.losses.Loss``; the losses that are reduced are those of the N anchors, so
            that ``sample_weight`` [N] weights anchors.

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
        margin: float = 1.0,
        soft: bool = False,
        distance_metric: str = "L2",
        name: str | None = "triplet_hard_loss",
        reduction: str | None = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(margin, distance_metric, name=name, reduction=reduction, dtype=dtype)
        self.soft = check_bool("soft", soft)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The losses [N] of labels ``y_true`` [N] and embeddings ``y_pred`` [N, D]."""
        return hard_loss(
            y_pred,
            label_vector(y_true, "y_true"),
            margin=self.margin,
            distance=self._distance,
            soft_margin=self.soft,
            reduction="none",
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        return {**super().get_config(), "soft": self.soft}


@keras.saving.register_keras_serializable(package="fasttriplet")
class TripletSemiHardLoss(_TripletLoss):
    """Each positive pair with the nearest negative that is farther than the positive, or else the farthest negative.

    The value is the mean over all ordered positive pairs of the batch, a scalar, which no ``reduction`` changes.

    Args:
        margin: finite number. Default 1.
        distance_metric: ``"L2"`` (default), ``"squared-L2"`` or ``"angular"`` (1 - cos).
        name, reduction, dtype: as in ``keras.losses.Loss``.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value, or ``sample_weight`` is given: pairs, not rows, are what is averaged.

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
        margin: float = 1.0,
        distance_metric: str = "L2",
        name: str | None = "triplet_semihard_loss",
        reduction: str | None = "sum_over_batch_size",
        dtype: Any = None,
    ) -> None:
        super().__init__(margin, distance_metric, name=name, reduction=reduction, dtype=dtype)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        if sample_weight is not None:
            raise ValueError(
                "sample_weight must be None: this loss is a mean over pairs, not over rows; "
                f"got {type(sample_weight).__name__}"
            )
        return super().__call__(y_true, y_pred)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of labels ``y_true`` [N] and embeddings ``y_pred`` [N, D], a scalar."""
        return semi_hard_loss(y_pred, label_vector(y_true, "y_true"), margin=self.margin, distance=self._distance)
