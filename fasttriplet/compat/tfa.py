"""TensorFlow Addons' triplet losses, under PyTorch: ``loss(y_true, y_pred)`` in their order of arguments.

An anchor without a positive keeps its place in the mean of :class:`TripletHardLoss`, with a positive at distance 0, and
a batch of one class has the loss that the original has.

Deviations, of all:

- Distances are exact: from differences, in float64 where rows are chosen, not from a float32 matrix of dot products.
- Under autocast the loss is float32, from float32 distances, where the original's is cast to the half precision of
  ``y_pred``.
- ``distance_metric`` is a name; callables are refused, since a matrix of distances is what is never made here.
- An empty mean (no positive pair in the batch) is 0 where the original gives NaN; ``log(1 + exp(x))`` does not
  overflow.
- Among rows at the same distance the gradient goes to the lowest index, where TensorFlow splits it evenly.
- ``"angular"``: a zero row is at distance 1 from every row, itself left out; rows of norms below 1e-6 are normalised
  like all others.

Source: https://www.tensorflow.org/addons/api_docs/python/tfa/losses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fasttriplet.check import check_bool, check_choice
from fasttriplet.compat._labels import label_vector
from fasttriplet.compat._margin import Margin, margin_of
from fasttriplet.compat._pairs import under_autocast
from fasttriplet.compat._whole_batch import hard_loss, semi_hard_loss

_NAMES = {"L2": "euclidean", "squared-L2": "squared_euclidean", "angular": "cosine"}
DISTANCE_METRICS = tuple(_NAMES)


def distance_of(distance_metric: str) -> str:
    """The distance of :mod:`fasttriplet` that TensorFlow Addons calls so."""
    check_choice("distance_metric", distance_metric, DISTANCE_METRICS)
    return _NAMES[distance_metric]


def _as_given(loss: Tensor, y_pred: Tensor) -> Tensor:
    """The loss in the dtype of ``y_pred``, but float32 under autocast, where half precision was not the caller's."""
    return loss if under_autocast(y_pred) else loss.to(y_pred.dtype)


def triplet_hard_loss(
    y_true: Tensor, y_pred: Tensor, margin: Margin = 1.0, soft: bool = False, distance_metric: str = "L2"
) -> Tensor:
    """Each row against its farthest positive and its nearest negative of the batch; the mean over all rows.

    Args:
        y_true: [N] or [N, 1] labels of any dtype, compared with ``==``.
        y_pred: [N, D] embeddings, float64, float32, float16 or bfloat16.
        margin: finite number, or a tensor of one that needs no gradient; not used when ``soft`` is true. Default 1.
        soft: softplus in place of the margin. Default false.
        distance_metric: ``"L2"`` (default), ``"squared-L2"`` or ``"angular"`` (1 - cos).

    Returns:
        The loss, a scalar of the dtype of ``y_pred``; half precision is computed in float32 and cast back,
        except under autocast.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.tfa import triplet_hard_loss
        >>> triplet_hard_loss(torch.tensor([0, 0]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), distance_metric="L2")
        tensor(1.)

    Deviations: those of the module :mod:`fasttriplet.compat.tfa`.

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737.
    """
    distance, soft = distance_of(distance_metric), check_bool("soft", soft)
    labels = label_vector("y_true", y_true, "y_pred", y_pred)
    loss = hard_loss(y_pred, labels, margin=margin_of(margin), distance=distance, soft_margin=soft)
    return _as_given(loss, y_pred)


def triplet_semihard_loss(y_true: Tensor, y_pred: Tensor, margin: Margin = 1.0, distance_metric: str = "L2") -> Tensor:
    """Each positive pair with the nearest negative that is farther than the positive, or else the farthest negative.

    Args:
        y_true: [N] or [N, 1] labels of any dtype, compared with ``==``.
        y_pred: [N, D] embeddings, float64, float32, float16 or bfloat16.
        margin: finite number, or a tensor of one that needs no gradient. Default 1.
        distance_metric: ``"L2"`` (default), ``"squared-L2"`` or ``"angular"`` (1 - cos).

    Returns:
        The mean over all ordered positive pairs, a scalar of the dtype of ``y_pred``; half precision is computed in
        float32 and cast back, except under autocast. A batch of one class takes 0 for the distance of the negative it
        lacks.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.tfa import triplet_semihard_loss
        >>> triplet_semihard_loss(torch.tensor([0, 0]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), distance_metric="L2")
        tensor(2.4142)

    Deviations: those of the module :mod:`fasttriplet.compat.tfa`.

    Source: F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering",
    2015, https://arxiv.org/abs/1503.03832.
    """
    distance = distance_of(distance_metric)
    labels = label_vector("y_true", y_true, "y_pred", y_pred)
    loss, _ = semi_hard_loss(y_pred, labels, margin=margin_of(margin), distance=distance)
    return _as_given(loss, y_pred)


class _TripletLoss(nn.Module):
    def __init__(self, margin: Margin, distance_metric: str, name: str | None, ignored: dict[str, Any]) -> None:
        super().__init__()
        if ignored.keys() - {"reduction"}:
            names = ", ".join(sorted(ignored.keys() - {"reduction"}))
            raise TypeError(f"{type(self).__name__} got unexpected keyword arguments: {names}")
        self.margin = margin_of(margin)
        distance_of(distance_metric)
        self.distance_metric = distance_metric
        self.name = name


class TripletHardLoss(_TripletLoss):
    """:func:`triplet_hard_loss` as a module.

    Args: as in :func:`triplet_hard_loss`; ``name`` is kept as an attribute, ``reduction`` is taken and changes nothing.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.tfa import TripletHardLoss
        >>> TripletHardLoss(margin=0.5)(torch.tensor([0, 0, 1]), torch.tensor([[0.0], [1.0], [3.0]]))
        tensor(0.)

    Deviations: those of the module :mod:`fasttriplet.compat.tfa`. The original takes any keyword arguments and uses
    none; here those but ``reduction`` are an error, since a misspelt one is more likely than a wanted one.
    """

    def __init__(
        self,
        margin: Margin = 1.0,
        soft: bool = False,
        distance_metric: str = "L2",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(margin, distance_metric, name, kwargs)
        self.soft = check_bool("soft", soft)

    @torch.jit.unused  # a model that holds one can be scripted, though what is here cannot
    def forward(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of labels ``y_true`` [N] and embeddings ``y_pred`` [N, D], a scalar."""
        return triplet_hard_loss(y_true, y_pred, self.margin, self.soft, self.distance_metric)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, soft={self.soft}, distance_metric={self.distance_metric!r}"


class TripletSemiHardLoss(_TripletLoss):
    """:func:`triplet_semihard_loss` as a module.

    Args: as in :func:`triplet_semihard_loss`; ``name`` is kept as an attribute, ``reduction`` is taken and changes
    nothing.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.tfa import TripletSemiHardLoss
        >>> TripletSemiHardLoss(margin=0.5)(torch.tensor([0, 0, 1]), torch.tensor([[0.0], [1.0], [1.25]]))
        tensor(0.7500)

    Deviations: those of the module :mod:`fasttriplet.compat.tfa`. The original takes any keyword arguments and uses
    none; here those but ``reduction`` are an error, since a misspelt one is more likely than a wanted one.
    """

    def __init__(
        self, margin: Margin = 1.0, distance_metric: str = "L2", name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(margin, distance_metric, name, kwargs)

    @torch.jit.unused  # a model that holds one can be scripted, though what is here cannot
    def forward(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of labels ``y_true`` [N] and embeddings ``y_pred`` [N, D], a scalar."""
        return triplet_semihard_loss(y_true, y_pred, self.margin, self.distance_metric)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, distance_metric={self.distance_metric!r}"
