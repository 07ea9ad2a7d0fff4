"""Exact triplet losses and mining in one fused pass, in memory O(N * D): a drop-in for PyTorch.

The map of the package; an arrow is "imports"::

    losses -> functional -> autograd -> engines -> torch.ops.fasttriplet (csrc/ or portable)
                         -> distributed -> autograd, torch.distributed
                         -> trip -> functional, of tensors on the CPU
    retrieval -> engines, distributed, pairing

- :mod:`fasttriplet.functional`: the public functions, a file for each loss with its miner.
- :mod:`fasttriplet.losses`: the same as ``torch.nn.Module``.
- :mod:`fasttriplet.distributed`: one batch over the processes of a group.
- :mod:`fasttriplet.large_batch`: :func:`grad_cache`, large batches on one device.
- :mod:`fasttriplet.memory`: :class:`CrossBatchMemory`, references from the batches before.
- :mod:`fasttriplet.sampler`: :class:`PKSampler`, batches of P classes with K rows of each.
- :mod:`fasttriplet.retrieval`: nearest neighbours, retrieval and verification metrics, hard negatives of a data set,
  re-ranking.
- :mod:`fasttriplet.miners`: what a miner returns, :class:`MinedTriplets` and :class:`Triplets`.
- :mod:`fasttriplet.stats`: :class:`TripletStats`, what a loss tells about its triplets.
- :mod:`fasttriplet.pairing`: who pairs with whom, and the rows as the operators take them.
- :mod:`fasttriplet.check`: every validation of Python arguments.
- :mod:`fasttriplet.autograd`: ``torch.autograd.Function`` over the operators.
- :mod:`fasttriplet.reduction`: from distances to a loss in plain PyTorch, where the operators do not.
- :mod:`fasttriplet.pair_distances`: distances of given pairs in plain PyTorch, which second derivatives go through.
- :mod:`fasttriplet.fake`: the operators' fake (meta) kernels.
- :mod:`fasttriplet.transforms`: losses under the transforms of ``torch.func``, and the operators' rules for ``vmap``.
- :mod:`fasttriplet.arguments`: the arguments that all losses and miners of a batch share, declared once.
- :mod:`fasttriplet.reference`: the specification in plain PyTorch; tests import it, the modules above never do.
- :mod:`fasttriplet.compat`: drop-ins for other libraries' losses and evaluators, on the public functions, and retrieval
  metrics for torchmetrics and Lightning; nothing imports them. A folder in it:
  :mod:`fasttriplet.compat.sentence_transformers`.
- :mod:`fasttriplet.info`: :func:`build_info`, what a bug report needs; ``python -m fasttriplet`` prints it.
- :mod:`fasttriplet.engines`: which engine serves a call, a kernel or the portable one; :class:`EngineWarning`.
- :mod:`fasttriplet.trip`: to the CPU's kernels and back, for devices without float64.
- :mod:`fasttriplet.portable`: the operators in plain PyTorch, for devices and calls that no kernel serves.
- :mod:`fasttriplet.schemas`: declares the operators.
- ``fasttriplet._library``: loads the compiled libraries.

Behind the operators, in ``csrc/``: ``check.cpp`` validates tensors, ``core/`` has the mathematics that host and device
share, ``cpu/`` and ``cuda/`` the kernels of their device.
"""

from fasttriplet import schemas as schemas  # first: declares the operators that the modules below look up

# isort: split
from fasttriplet import fake as fake
from fasttriplet import retrieval as retrieval
from fasttriplet.engines import EngineWarning, announce_absence
from fasttriplet.functional import (
    batch_all_triplet_loss,
    batch_hard_triplet_loss,
    easy_positive_triplet_loss,
    k_hardest_triplet_loss,
    mine_batch_hard,
    mine_easy_positive,
    mine_k_hardest,
    mine_semi_hard,
    semi_hard_triplet_loss,
    triplet_margin_loss,
    weighted_triplet_loss,
)
from fasttriplet.info import build_info
from fasttriplet.large_batch import grad_cache
from fasttriplet.losses import (
    BatchAllTripletLoss,
    BatchHardTripletLoss,
    EasyPositiveTripletLoss,
    KHardestTripletLoss,
    SemiHardTripletLoss,
    TripletMarginLoss,
    WeightedTripletLoss,
)
from fasttriplet.memory import CrossBatchMemory
from fasttriplet.miners import MinedTriplets, Triplets
from fasttriplet.sampler import PKSampler
from fasttriplet.stats import TripletStats

announce_absence()

__version__ = "0.2.0"

__all__ = [
    "BatchAllTripletLoss",
    "BatchHardTripletLoss",
    "CrossBatchMemory",
    "EasyPositiveTripletLoss",
    "EngineWarning",
    "KHardestTripletLoss",
    "MinedTriplets",
    "PKSampler",
    "SemiHardTripletLoss",
    "TripletMarginLoss",
    "TripletStats",
    "Triplets",
    "WeightedTripletLoss",
    "__version__",
    "batch_all_triplet_loss",
    "batch_hard_triplet_loss",
    "build_info",
    "easy_positive_triplet_loss",
    "grad_cache",
    "k_hardest_triplet_loss",
    "mine_batch_hard",
    "mine_easy_positive",
    "mine_k_hardest",
    "mine_semi_hard",
    "semi_hard_triplet_loss",
    "triplet_margin_loss",
    "weighted_triplet_loss",
]
