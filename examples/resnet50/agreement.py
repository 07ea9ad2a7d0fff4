"""How far the fused and the reference loss may part: two checks, both with tolerance 1e-4.

1. *Same embeddings, every step.* The reference has the fused loss's embeddings in float64: loss and gradient must
   agree. Nothing but the loss differs, so no step is excused; float32 rounding uses about 1e-6. Float64, because the
   fused loss promises the triplets that float64 arithmetic picks; in float32 the reference may itself pick the second
   nearest of two negatives that are equal to seven digits.
2. *Two copies of the network, the first steps.* They start from the same bits and see the same batches. Their losses
   must agree for ``_HELD`` steps, the second of which has seen an optimiser step. After that no bound holds for any two
   correct losses: hard mining, ReLU, batch norm and Adam (which divides each gradient by its own size) multiply a
   difference in the last bit about tenfold a step. Measured on the digits: at most 5e-7 in steps 1 and 2, 3e-5 in step
   3, 5e-4 in step 4. In step 1 only where more is rounded: under autocast (6e-4 in step 2), on any device but the CPU
   (cuDNN convolves float32 in TF32), where several processes train the fused copy (5e-5), and in batches of fewer than
   ``_ENOUGH`` images (4e-4 in those of 4). In float64, where rounding starts at 1e-16, for ``_HELD_IN_FLOAT64`` steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from examples.resnet50.device import float64_device
from examples.resnet50.errors import Disagreement
from examples.resnet50.learner import LossFunction, StepResult
from examples.resnet50.telemetry import Row

TOLERANCE = 1e-4
_HELD, _HELD_IN_FLOAT64 = 2, 10
_ENOUGH = 16
#: Losses below this are compared as if they were this: float32 holds distances near 1 to 1e-7 whatever the loss is.
_LOSS_FLOOR = 1e-2
_GRADIENT_FLOOR = 1e-6  # a gradient of norm 0 on both sides agrees
#: Columns of the record.
COPIES_LOSS = "copies_loss_difference"
COPIES_GRADIENT_NORM = "copies_gradient_norm_difference"
SAME_LOSS = "same_embeddings_loss_difference"
SAME_GRADIENT = "same_embeddings_gradient_difference"  # |g - h| / |g| of the embeddings' gradients


def relative_difference(first: Tensor, second: Tensor, floor: float) -> Tensor:
    """|first - second| over the larger of the two and ``floor``; NaN if one is not finite, 0 if neither is.

    Two losses of a network that has diverged agree; that it has is told of elsewhere.
    """
    difference = (first - second).abs() / torch.maximum(first.abs(), second.abs()).clamp_min(floor)
    return difference.masked_fill(~first.isfinite() & ~second.isfinite(), 0.0)


def compare_losses(fused: StepResult, reference_loss: LossFunction, labels: Tensor) -> dict[str, Tensor]:
    """Differences between the fused loss of a step and the reference on the same embeddings, in float64.

    Scalars in float32 by their column of the record, on the device of the embeddings. Where that has no float64 the
    reference runs on the CPU, which waits for the device.
    """
    device = fused.embeddings.device
    place = float64_device(device)
    leaf = fused.embeddings.to(place).double().requires_grad_()
    loss = reference_loss(leaf, labels.to(place))
    (expected,) = torch.autograd.grad(loss, leaf)
    fused_loss, loss = fused.figures["loss"].to(place).double(), loss.detach()
    gap = (fused.embedding_gradient.to(place).double() - expected).norm() / expected.norm().clamp_min(_GRADIENT_FLOOR)
    same = {
        SAME_LOSS: relative_difference(fused_loss, loss, _LOSS_FLOOR),
        SAME_GRADIENT: gap.masked_fill(~fused_loss.isfinite() & ~loss.isfinite(), 0.0),
    }
    return {name: difference.float().to(device) for name, difference in same.items()}


def compare_copies(fused: StepResult, reference: StepResult) -> dict[str, Tensor]:
    """Differences between the two copies, scalars by their column of the record."""
    pairs = {name: (fused.figures[name], reference.figures[name]) for name in ("loss", "gradient_norm")}
    return {
        COPIES_LOSS: relative_difference(*pairs["loss"], _LOSS_FLOOR),
        COPIES_GRADIENT_NORM: relative_difference(*pairs["gradient_norm"], _GRADIENT_FLOOR),
    }


def held_steps(precision: str, device: torch.device, rows: int, processes: int = 1) -> int:
    """For how many steps the losses of the two copies must agree, with ``rows`` in a batch."""
    if precision == "float64":
        return _HELD_IN_FLOAT64
    return _HELD if precision == "float32" and device.type == "cpu" and processes == 1 and rows >= _ENOUGH else 1


def check(row: Row, held: int) -> None:
    """Raises Disagreement where a difference in ``row`` is above its tolerance, or NaN."""
    step = int(row["step"])
    checked = {
        "the loss on the same embeddings": row[SAME_LOSS],
        "the gradient with respect to the same embeddings": row[SAME_GRADIENT],
    }
    if step <= held and COPIES_LOSS in row:
        checked["the losses of the two copies, before training could part them"] = row[COPIES_LOSS]
    for what, difference in checked.items():
        if not difference <= TOLERANCE:
            raise Disagreement(
                f"step {step}: fused and reference differ in {what} by {difference:.1e} relative; "
                f"at most {TOLERANCE:.0e} is allowed, some 100 times what rounding explains"
            )
