"""``torch.autograd.Function`` over the operators, a file for each family of them.

Arguments are codes, see :mod:`fasttriplet.check`; what comes in has been checked.
"""

from fasttriplet.autograd.batch_hard import BatchHardLoss
from fasttriplet.autograd.dense import BatchAllSums, WeightedDistances
from fasttriplet.autograd.mined import MinedDistances, TripletLosses, mine
from fasttriplet.autograd.semi_hard import SemiHardSums
from fasttriplet.autograd.triplet_margin import TripletMargin

__all__ = [
    "BatchAllSums",
    "BatchHardLoss",
    "MinedDistances",
    "SemiHardSums",
    "TripletLosses",
    "TripletMargin",
    "WeightedDistances",
    "mine",
]
