"""The loss functions by name. fasttriplet is imported on use, so that ``--help`` needs no built extension."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from examples.resnet50.errors import UserError

#: (embeddings [N, D], labels [N]) -> scalar; takes ``reduction`` by keyword
LossFunction = Callable[..., Tensor]


def loss_function(name: str, *, margin: float, distance: str, soft_margin: bool) -> LossFunction:
    """``"fused"``, fasttriplet's kernels, or ``"reference"``, the same in plain PyTorch."""
    try:
        if name == "reference":
            from fasttriplet.reference import batch_hard_triplet_loss
        else:
            from fasttriplet import batch_hard_triplet_loss
    except ImportError as error:
        raise UserError(f"--loss {name} needs fasttriplet installed: {error}") from error
    return partial(batch_hard_triplet_loss, margin=margin, distance=distance, soft_margin=soft_margin)
