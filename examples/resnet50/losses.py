"""The loss functions by name. fasttriplet is imported on use, so that ``--help`` needs no built extension."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from examples.resnet50.errors import UserError

#: (embeddings [N, D], labels [N]) -> scalar; takes ``reduction`` by keyword
LossFunction = Callable[..., Tensor]


def loss_function(name: str, *, margin: float, distance: str, soft_margin: bool, group: Any = None) -> LossFunction:
    """``"fused"``, fasttriplet's kernels, or ``"reference"``, the same in plain PyTorch.

    The batch of the fused loss is that of all processes of ``group``, where there is one; the reference has no groups.
    """
    try:
        if name == "reference":
            from fasttriplet.reference import batch_hard_triplet_loss
        else:
            from fasttriplet import batch_hard_triplet_loss
    except ImportError as error:
        raise UserError(f"--loss {name} needs fasttriplet installed: {error}") from error
    of_all = {} if group is None else {"process_group": group}
    return partial(batch_hard_triplet_loss, margin=margin, distance=distance, soft_margin=soft_margin, **of_all)
