"""Copies from the CPU to the device that nobody waits for."""

from __future__ import annotations

import torch
from torch import Tensor

#: Where the copy engine reads pinned memory by itself. Apple's GPUs share the CPU's memory: nothing to be gained.
_PINNED = ("cuda", "xpu")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` of the CPU on ``device``, by way of pinned memory where that lets the CPU go on meanwhile.

    PyTorch hands pinned memory out again only when the copies from it are through, so none has to be held here.
    """
    if device.type not in _PINNED:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
