"""``nn.Module`` faces of the functions in :mod:`fasttriplet.functional`."""

from __future__ import annotations

from torch import Tensor, nn

from fasttriplet.check import DISTANCES, ON_MISSING, REDUCTIONS, check_bool, check_choice, check_margin
from fasttriplet.functional import batch_hard_triplet_loss


class BatchHardTripletLoss(nn.Module):
    """:func:`fasttriplet.batch_hard_triplet_loss` as a module, for wherever ``loss(embeddings, labels)`` is called.

    Args: as in :func:`fasttriplet.batch_hard_triplet_loss`; they are checked here, at construction.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet import BatchHardTripletLoss
        >>> loss = BatchHardTripletLoss(margin=0.2, distance="cosine")
        >>> loss
        BatchHardTripletLoss(margin=0.2, distance='cosine', soft_margin=False, reduction='mean', on_missing='skip')
        >>> loss(torch.randn(8, 16), torch.arange(8) // 2).shape
        torch.Size([])
    """

    def __init__(
        self,
        *,
        margin: float = 0.3,
        distance: str = "euclidean",
        soft_margin: bool = False,
        reduction: str = "mean",
        on_missing: str = "skip",
    ) -> None:
        super().__init__()
        check_choice("distance", distance, DISTANCES)
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("on_missing", on_missing, ON_MISSING)
        self.margin = check_margin(margin)
        self.distance = distance
        self.soft_margin = check_bool("soft_margin", soft_margin)
        self.reduction = reduction
        self.on_missing = on_missing

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of ``embeddings`` [N, D] under ``labels`` [N]; see :func:`fasttriplet.batch_hard_triplet_loss`."""
        return batch_hard_triplet_loss(
            embeddings,
            labels,
            margin=self.margin,
            distance=self.distance,
            soft_margin=self.soft_margin,
            reduction=self.reduction,
            on_missing=self.on_missing,
        )

    def extra_repr(self) -> str:
        return (
            f"margin={self.margin}, distance={self.distance!r}, soft_margin={self.soft_margin}, "
            f"reduction={self.reduction!r}, on_missing={self.on_missing!r}"
        )
