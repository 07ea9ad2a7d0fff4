"""The module of explicit triplets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fasttriplet import functional
from fasttriplet.check import DISTANCES, GRADIENT_SCALES, REDUCTIONS, check_bool, check_choice, check_margin
from fasttriplet.distributed.held import HoldsProcessGroup


class TripletMarginLoss(HoldsProcessGroup, nn.Module):
    """:func:`fasttriplet.triplet_margin_loss` as a module, in place of ``torch.nn.TripletMarginLoss``.

    Args: as in :func:`fasttriplet.triplet_margin_loss`; they are checked here, at construction.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet import TripletMarginLoss
        >>> loss = TripletMarginLoss(margin=0.2, swap=True)
        >>> loss
        TripletMarginLoss(margin=0.2, distance='euclidean', swap=True, soft_margin=False, mining_margin=None, \
reduction='mean')
        >>> loss(torch.randn(8, 16), torch.randn(8, 16), torch.randn(8, 16)).shape
        torch.Size([])
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        distance: str = "euclidean",
        swap: bool = False,
        soft_margin: bool = False,
        mining_margin: float | None = None,
        reduction: str = "mean",
        process_group: Any = None,
        gradient_scale: str = "mean",
    ) -> None:
        super().__init__()
        check_choice("distance", distance, DISTANCES)
        check_choice("reduction", reduction, REDUCTIONS)
        self.margin = check_margin(margin)
        self.distance = distance
        self.swap = check_bool("swap", swap)
        self.soft_margin = check_bool("soft_margin", soft_margin)
        self.mining_margin = None if mining_margin is None else check_margin(mining_margin, "mining_margin")
        check_choice("gradient_scale", gradient_scale, GRADIENT_SCALES)
        self.reduction, self.process_group, self.gradient_scale = reduction, process_group, gradient_scale

    if TYPE_CHECKING:  # nn.Module's takes and returns anything

        def __call__(
            self, anchor: Tensor, positive: Tensor, negative: Tensor, *, weights: Tensor | None = None
        ) -> Tensor: ...

    @torch.jit.unused  # as in fasttriplet.losses._module
    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor, *, weights: Tensor | None = None) -> Tensor:
        """The loss of the triplets, [T, D] each, ``weights`` [T]; see :func:`fasttriplet.triplet_margin_loss`."""
        return functional.triplet_margin_loss(
            anchor,
            positive,
            negative,
            margin=self.margin,
            distance=self.distance,
            swap=self.swap,
            soft_margin=self.soft_margin,
            mining_margin=self.mining_margin,
            reduction=self.reduction,
            weights=weights,
            process_group=self.process_group,
            gradient_scale=self.gradient_scale,
        )

    def extra_repr(self) -> str:
        return (
            f"margin={self.margin}, distance={self.distance!r}, swap={self.swap}, soft_margin={self.soft_margin}, "
            f"mining_margin={self.mining_margin}, reduction={self.reduction!r}"
        )
