"""Modules of the losses over all pairs."""

from __future__ import annotations

from typing_extensions import Unpack

from fasttriplet import functional
from fasttriplet.arguments import ModuleOptions, takes
from fasttriplet.losses._module import TripletLoss


class BatchAllTripletLoss(TripletLoss):
    """:func:`fasttriplet.batch_all_triplet_loss` as a module.

    Args: as in :func:`fasttriplet.batch_all_triplet_loss`, those of one batch aside, which ``forward`` takes; they are
    checked here, at construction.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet import BatchAllTripletLoss
        >>> loss = BatchAllTripletLoss(soft_margin=True)
        >>> loss
        BatchAllTripletLoss(margin=0.3, distance='euclidean', soft_margin=True, reduction='mean_nonzero', \
on_missing='skip')
        >>> loss(torch.randn(8, 16), torch.arange(8) // 2).shape
        torch.Size([])
    """

    _function = staticmethod(functional.batch_all_triplet_loss)

    @takes(ModuleOptions)
    def __init__(
        self,
        *,
        margin: float = 0.3,
        distance: str = "euclidean",
        soft_margin: bool = False,
        reduction: str = "mean_nonzero",
        on_missing: str = "skip",
        **shared: Unpack[ModuleOptions],
    ) -> None:
        super().__init__(
            shared,
            margin=margin,
            distance=distance,
            soft_margin=soft_margin,
            reduction=reduction,
            on_missing=on_missing,
        )


class WeightedTripletLoss(TripletLoss):
    """:func:`fasttriplet.weighted_triplet_loss` as a module.

    Args: as in :func:`fasttriplet.weighted_triplet_loss`, those of one batch aside, which ``forward`` takes; they are
    checked here, at construction.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet import WeightedTripletLoss
        >>> loss = WeightedTripletLoss(distance="cosine")
        >>> loss
        WeightedTripletLoss(margin=0.3, distance='cosine', soft_margin=False, reduction='mean', on_missing='skip')
        >>> loss(torch.randn(8, 16), torch.arange(8) // 2).shape
        torch.Size([])
    """

    _function = staticmethod(functional.weighted_triplet_loss)

    @takes(ModuleOptions)
    def __init__(
        self,
        *,
        margin: float = 0.3,
        distance: str = "euclidean",
        soft_margin: bool = False,
        reduction: str = "mean",
        on_missing: str = "skip",
        **shared: Unpack[ModuleOptions],
    ) -> None:
        super().__init__(
            shared,
            margin=margin,
            distance=distance,
            soft_margin=soft_margin,
            reduction=reduction,
            on_missing=on_missing,
        )
