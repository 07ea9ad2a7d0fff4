"""``nn.Module`` faces of the functions in :mod:`fasttriplet.functional`."""

from fasttriplet.losses.dense import BatchAllTripletLoss, WeightedTripletLoss
from fasttriplet.losses.mined import (
    BatchHardTripletLoss,
    EasyPositiveTripletLoss,
    KHardestTripletLoss,
    SemiHardTripletLoss,
)
from fasttriplet.losses.triplet_margin import TripletMarginLoss

__all__ = [
    "BatchAllTripletLoss",
    "BatchHardTripletLoss",
    "EasyPositiveTripletLoss",
    "KHardestTripletLoss",
    "SemiHardTripletLoss",
    "TripletMarginLoss",
    "WeightedTripletLoss",
]
