"""Modules of the losses that choose triplets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import Unpack

from fasttriplet import functional
from fasttriplet.arguments import ModuleOptions, takes
from fasttriplet.losses._module import TripletLoss


class BatchHardTripletLoss(TripletLoss):
    """:func:`fasttriplet.batch_hard_triplet_loss` as a module, for wherever ``loss(embeddings, labels)`` is called.

    Args: as in :func:`fasttriplet.batch_hard_triplet_loss`, those of one batch aside, which ``forward`` takes; they are
    checked here, at construction.

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

    _function = staticmethod(functional.batch_hard_triplet_loss)

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


class SemiHardTripletLoss(TripletLoss):
    """:func:`fasttriplet.semi_hard_triplet_loss` as a module.

    Args: as in :func:`fasttriplet.semi_hard_triplet_loss`, those of one batch aside, which ``forward`` takes; they are
    checked here, at construction.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet import SemiHardTripletLoss
        >>> loss = SemiHardTripletLoss(margin=0.2)
        >>> loss
        SemiHardTripletLoss(margin=0.2, distance='euclidean', soft_margin=False, within_margin=False, \
otherwise='farthest', reduction='mean', on_missing='skip')
        >>> loss(torch.randn(8, 16), torch.arange(8) // 2).shape
        torch.Size([])
    """

    _function = staticmethod(functional.semi_hard_triplet_loss)

    if TYPE_CHECKING:
        within_margin: bool
        otherwise: str

    @takes(ModuleOptions)
    def __init__(
        self,
        *,
        margin: float = 0.3,
        distance: str = "euclidean",
        soft_margin: bool = False,
        within_margin: bool = False,
        otherwise: str = "farthest",
        reduction: str = "mean",
        on_missing: str = "skip",
        **shared: Unpack[ModuleOptions],
    ) -> None:
        super().__init__(
            shared,
            margin=margin,
            distance=distance,
            soft_margin=soft_margin,
            within_margin=within_margin,
            otherwise=otherwise,
            reduction=reduction,
            on_missing=on_missing,
        )


class EasyPositiveTripletLoss(TripletLoss):
    """:func:`fasttriplet.easy_positive_triplet_loss` as a module.

    Args: as in :func:`fasttriplet.easy_positive_triplet_loss`, those of one batch aside, which ``forward`` takes; they
    are checked here, at construction.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet import EasyPositiveTripletLoss
        >>> loss = EasyPositiveTripletLoss(negatives="semi_hard")
        >>> loss
        EasyPositiveTripletLoss(margin=0.3, distance='euclidean', soft_margin=False, negatives='semi_hard', \
otherwise='farthest', reduction='mean', on_missing='skip')
        >>> loss(torch.randn(8, 16), torch.arange(8) // 2).shape
        torch.Size([])
    """

    _function = staticmethod(functional.easy_positive_triplet_loss)

    if TYPE_CHECKING:
        negatives: str
        otherwise: str

    @takes(ModuleOptions)
    def __init__(
        self,
        *,
        margin: float = 0.3,
        distance: str = "euclidean",
        soft_margin: bool = False,
        negatives: str = "hardest",
        otherwise: str = "farthest",
        reduction: str = "mean",
        on_missing: str = "skip",
        **shared: Unpack[ModuleOptions],
    ) -> None:
        super().__init__(
            shared,
            margin=margin,
            distance=distance,
            soft_margin=soft_margin,
            negatives=negatives,
            otherwise=otherwise,
            reduction=reduction,
            on_missing=on_missing,
        )


class KHardestTripletLoss(TripletLoss):
    """:func:`fasttriplet.k_hardest_triplet_loss` as a module.

    Args: as in :func:`fasttriplet.k_hardest_triplet_loss`, those of one batch aside, which ``forward`` takes; they are
    checked here, at construction.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet import KHardestTripletLoss
        >>> loss = KHardestTripletLoss(k=2)
        >>> loss
        KHardestTripletLoss(margin=0.3, distance='euclidean', soft_margin=False, k=2, kth_only=False, \
skip_fraction=0.0, reduction='mean', on_missing='skip')
        >>> loss(torch.randn(8, 16), torch.arange(8) // 2).shape
        torch.Size([])
    """

    _function = staticmethod(functional.k_hardest_triplet_loss)

    if TYPE_CHECKING:
        k: int
        kth_only: bool
        skip_fraction: float

    @takes(ModuleOptions)
    def __init__(
        self,
        *,
        margin: float = 0.3,
        distance: str = "euclidean",
        soft_margin: bool = False,
        k: int = 4,
        kth_only: bool = False,
        skip_fraction: float = 0.0,
        reduction: str = "mean",
        on_missing: str = "skip",
        **shared: Unpack[ModuleOptions],
    ) -> None:
        super().__init__(
            shared,
            margin=margin,
            distance=distance,
            soft_margin=soft_margin,
            k=k,
            kth_only=kth_only,
            skip_fraction=skip_fraction,
            reduction=reduction,
            on_missing=on_missing,
        )
