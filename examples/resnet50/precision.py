"""What the network computes in: autocast, and for float16 the scaling of the loss.

The parameters stay in float32, and so does the loss. bfloat16 has the exponents of float32; the gradients of float16 go
under below 6e-8 and overflow above 65504, so the loss is multiplied by a scale that adapts itself: halved after a step
whose gradients overflow, which is skipped, doubled after 2000 steps without one.

float64 has parameters and loss in float64 too: runs that differ in rounding alone then stay together for many steps.
"""

from __future__ import annotations

import torch

from examples.resnet50.device import has_float64
from examples.resnet50.errors import UserError

#: What autocast makes of them, if anything.
PRECISIONS: dict[str, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": None,
}


def parameter_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Of weights, batch norm and loss."""
    if precision != "float64":
        return torch.float32
    if not has_float64(device):
        raise UserError(f"--precision must be another than float64 on {device}, which has none; got float64")
    return torch.float64


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context to run the network in."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def grad_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """One that scales for float16, and for the others hands everything through."""
    scales = precision == "float16"
    # GradScaler inverts its scale in float64, on MPS alone without.
    if scales and device.type != "mps" and not has_float64(device):
        raise UserError(f"--precision must be float32 or bfloat16 on {device}, which has no float64; got float16")
    return torch.amp.GradScaler(device.type, enabled=scales)
