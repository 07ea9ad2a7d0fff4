"""Exact batch-hard triplet loss and mining in one fused pass, in memory O(N * D): a drop-in for PyTorch.

The map of the package; an arrow is "imports"::

    losses -> functional -> autograd -> torch.ops.fasttriplet (csrc/)

- :mod:`fasttriplet.functional`: the public functions, :func:`batch_hard_triplet_loss` and :func:`mine_batch_hard`.
- :mod:`fasttriplet.losses`: the same as ``torch.nn.Module``, :class:`BatchHardTripletLoss`.
- :mod:`fasttriplet.miners`: what a miner returns, :class:`MinedTriplets`.
- :mod:`fasttriplet.check`: every validation of Python arguments.
- :mod:`fasttriplet.autograd`: ``torch.autograd.Function`` over the operators, and their fake (meta) kernels.
- :mod:`fasttriplet.reference`: the specification in plain PyTorch; tests import it, the modules above never do.
- :mod:`fasttriplet.info`: :func:`build_info`, what a bug report needs; ``python -m fasttriplet`` prints it.
- ``fasttriplet._library``: loads the compiled libraries.

Behind the operators, in ``csrc/``: ``ops.cpp`` declares them, ``check.cpp`` validates tensors, ``core/`` has the
mathematics that host and device share, ``cpu/`` and ``cuda/`` the kernels of their device.
"""

from fasttriplet import _library as _library  # first: registers the operators that the modules below look up
from fasttriplet.functional import batch_hard_triplet_loss, mine_batch_hard
from fasttriplet.info import build_info
from fasttriplet.losses import BatchHardTripletLoss
from fasttriplet.miners import MinedTriplets

__version__ = "0.1.0"

__all__ = [
    "BatchHardTripletLoss",
    "MinedTriplets",
    "__version__",
    "batch_hard_triplet_loss",
    "build_info",
    "mine_batch_hard",
]
