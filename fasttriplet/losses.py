"""``nn.Module`` faces of the functions in :mod:`fasttriplet.functional`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from fasttriplet import functional
from fasttriplet.check import (
    DISTANCES,
    NEGATIVES,
    ON_MISSING,
    OTHERWISE,
    REDUCTIONS,
    check_bool,
    check_choice,
    check_count,
    check_fraction,
    check_ignore_index,
    check_margin,
)
from fasttriplet.functional._loss import LossResult


def _choice(choices: tuple[str, ...], name: str, value: object) -> object:
    check_choice(name, value, choices)
    return value


#: What every option of a module is checked with, when it is made: (name, value) -> value.
_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "margin": lambda name, value: check_margin(value, name),
    "distance": partial(_choice, DISTANCES),
    "soft_margin": check_bool,
    "within_margin": check_bool,
    "negatives": partial(_choice, NEGATIVES),
    "otherwise": partial(_choice, OTHERWISE),
    "k": check_count,
    "kth_only": check_bool,
    "skip_fraction": check_fraction,
    "reduction": partial(_choice, REDUCTIONS),
    "on_missing": partial(_choice, ON_MISSING),
    "ignore_index": lambda name, value: check_ignore_index(value),
    "return_stats": check_bool,
}


class _TripletLoss(nn.Module):
    """A function with the arguments bound that are not of one batch."""

    _function: ClassVar[Callable[..., LossResult]]

    def __init__(self, **options: object) -> None:
        super().__init__()
        self._options = tuple(options)
        for name, value in options.items():
            setattr(self, name, _CHECKS[name](name, value))

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        ref_embeddings: Tensor | None = None,
        ref_labels: Tensor | None = None,
        self_indices: Tensor | None = None,
        groups: Tensor | None = None,
        ref_groups: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> LossResult:
        """The loss of ``embeddings`` [N, D] under ``labels``, with the arguments of the function for this batch."""
        return self._function(
            embeddings,
            labels,
            ref_embeddings=ref_embeddings,
            ref_labels=ref_labels,
            self_indices=self_indices,
            groups=groups,
            ref_groups=ref_groups,
            weights=weights,
            **{name: getattr(self, name) for name in self._options},
        )

    def extra_repr(self) -> str:
        left_out = {"ignore_index": None, "return_stats": False}  # where they are as by default
        shown = ((name, getattr(self, name)) for name in self._options)
        return ", ".join(
            f"{name}={value!r}" for name, value in shown if name not in left_out or value != left_out[name]
        )


class BatchHardTripletLoss(_TripletLoss):
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

    def __init__(
        self,
        *,
        margin: float = 0.3,
        distance: str = "euclidean",
        soft_margin: bool = False,
        reduction: str = "mean",
        on_missing: str = "skip",
        ignore_index: int | None = None,
        return_stats: bool = False,
    ) -> None:
        super().__init__(
            margin=margin,
            distance=distance,
            soft_margin=soft_margin,
            reduction=reduction,
            on_missing=on_missing,
            ignore_index=ignore_index,
            return_stats=return_stats,
        )


class SemiHardTripletLoss(_TripletLoss):
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
        ignore_index: int | None = None,
        return_stats: bool = False,
    ) -> None:
        super().__init__(
            margin=margin,
            distance=distance,
            soft_margin=soft_margin,
            within_margin=within_margin,
            otherwise=otherwise,
            reduction=reduction,
            on_missing=on_missing,
            ignore_index=ignore_index,
            return_stats=return_stats,
        )


class EasyPositiveTripletLoss(_TripletLoss):
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
        ignore_index: int | None = None,
        return_stats: bool = False,
    ) -> None:
        super().__init__(
            margin=margin,
            distance=distance,
            soft_margin=soft_margin,
            negatives=negatives,
            otherwise=otherwise,
            reduction=reduction,
            on_missing=on_missing,
            ignore_index=ignore_index,
            return_stats=return_stats,
        )


class KHardestTripletLoss(_TripletLoss):
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
        ignore_index: int | None = None,
        return_stats: bool = False,
    ) -> None:
        super().__init__(
            margin=margin,
            distance=distance,
            soft_margin=soft_margin,
            k=k,
            kth_only=kth_only,
            skip_fraction=skip_fraction,
            reduction=reduction,
            on_missing=on_missing,
            ignore_index=ignore_index,
            return_stats=return_stats,
        )


class BatchAllTripletLoss(_TripletLoss):
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

    def __init__(
        self,
        *,
        margin: float = 0.3,
        distance: str = "euclidean",
        soft_margin: bool = False,
        reduction: str = "mean_nonzero",
        on_missing: str = "skip",
        ignore_index: int | None = None,
        return_stats: bool = False,
    ) -> None:
        super().__init__(
            margin=margin,
            distance=distance,
            soft_margin=soft_margin,
            reduction=reduction,
            on_missing=on_missing,
            ignore_index=ignore_index,
            return_stats=return_stats,
        )


class WeightedTripletLoss(_TripletLoss):
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

    def __init__(
        self,
        *,
        margin: float = 0.3,
        distance: str = "euclidean",
        soft_margin: bool = False,
        reduction: str = "mean",
        on_missing: str = "skip",
        ignore_index: int | None = None,
        return_stats: bool = False,
    ) -> None:
        super().__init__(
            margin=margin,
            distance=distance,
            soft_margin=soft_margin,
            reduction=reduction,
            on_missing=on_missing,
            ignore_index=ignore_index,
            return_stats=return_stats,
        )
