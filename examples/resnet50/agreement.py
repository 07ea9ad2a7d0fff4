"""How far the fused and the reference loss may part while two copies of one network are trained.

Two checks, both with tolerance 1e-4, of which float32 rounding alone uses about 1e-6:

1. *Same embeddings, every step.* The embeddings of the fused copy are given to the reference loss in float64: loss
   and gradient with respect to the embeddings must agree. Nothing but the loss differs, so no step is excused.
   Float64, because the fused loss promises the positives and negatives that float64 arithmetic picks; in float32 the
   reference may itself pick the second nearest of two negatives that are equal to seven digits.
2. *Two copies, the first steps.* The copies start from the same bits and see the same batches. Their losses must agree
   for ``STEPS_BEFORE_CHAOS`` steps, the second of which has seen an optimiser step. After that no bound holds for any
   two correct losses: rounding differences of 1e-7 in the gradient move the weights apart, and hard mining, ReLU, batch
   norm and Adam (which divides each gradient by its own size, so that a weight whose gradient is nearly 0 may step
   either way) multiply the distance about tenfold a step. Measured on the digits with seeds 0 to 2: at most 2e-7 in
   steps 1 and 2, 3e-5 in step 3, 5e-4 in step 4. Under autocast the copies are held in step 1 only: bfloat16 rounds at
   4e-3, weights 1e-7 apart may round to different neighbours, and 6e-4 was measured in step 2. So they are on any
   device but the CPU: cuDNN convolves float32 in TF32, which rounds at 5e-4, and its gradients may be summed in another
   order on every run. So they are where the fused copy is trained by several processes: sums over their parts are
   rounded otherwise in every layer, and 5e-5 was measured in step 2. In float64 there are ``STEPS_IN_FLOAT64`` such
   steps, whoever trains: rounding starts at 1e-16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from examples.resnet50.device import float64_device
from examples.resnet50.learner import StepResult
from examples.resnet50.losses import LossFunction
from examples.resnet50.record import Row

TOLERANCE = 1e-4
STEPS_BEFORE_CHAOS = 2
STEPS_IN_FLOAT64 = 10
#: Losses below this are compared as if they were this: float32 holds distances near 1 to 1e-7 whatever the loss is.
LOSS_FLOOR = 1e-2
GRADIENT_FLOOR = 1e-6  # a gradient of norm 0 on both sides agrees
#: Columns of the record.
COPIES_LOSS = "copies_loss_difference"
COPIES_GRADIENT_NORM = "copies_gradient_norm_difference"
SAME_LOSS = "same_embeddings_loss_difference"
SAME_GRADIENT = "same_embeddings_gradient_difference"  # |g - h| / |g| of the embeddings' gradients


class Disagreement(Exception):
    """The two losses parted by more than rounding explains. Exit code 1."""


def relative_difference(first: Tensor, second: Tensor, floor: float) -> Tensor:
    """|first - second| over the larger of the two and ``floor``; NaN if one is not finite, 0 if neither is.

    Two losses of a network that has diverged agree; that it has is told of elsewhere.
    """
    difference = (first - second).abs() / torch.maximum(first.abs(), second.abs()).clamp_min(floor)
    return difference.masked_fill(~first.isfinite() & ~second.isfinite(), 0.0)


def compare(
    fused: StepResult, reference: StepResult, reference_loss: LossFunction, labels: Tensor
) -> dict[str, Tensor]:
    """Differences between the two copies, and between the two losses on the fused copy's embeddings.

    Scalars in float32 by their column of the record, on the device of the embeddings. Where that has no float64 the
    reference runs on the CPU, which waits for the device.
    """
    device = fused.embeddings.device
    place = float64_device(device)
    leaf = fused.embeddings.to(place).double().requires_grad_()
    loss = reference_loss(leaf, labels.to(place))
    (expected,) = torch.autograd.grad(loss, leaf)
    fused_loss, loss = fused.loss.to(place).double(), loss.detach()
    gap = (fused.embedding_gradient.to(place).double() - expected).norm() / expected.norm().clamp_min(GRADIENT_FLOOR)
    same = {
        SAME_LOSS: relative_difference(fused_loss, loss, LOSS_FLOOR),
        SAME_GRADIENT: gap.masked_fill(~fused_loss.isfinite() & ~loss.isfinite(), 0.0),
    }
    return {
        COPIES_LOSS: relative_difference(fused.loss, reference.loss, LOSS_FLOOR),
        COPIES_GRADIENT_NORM: relative_difference(fused.gradient_norm, reference.gradient_norm, GRADIENT_FLOOR),
        **{name: difference.float().to(device) for name, difference in same.items()},
    }


def held_steps(precision: str, device: torch.device, processes: int = 1) -> int:
    """For how many steps the losses of the two copies must agree."""
    if precision == "float64":
        return STEPS_IN_FLOAT64
    return STEPS_BEFORE_CHAOS if precision == "float32" and device.type == "cpu" and processes == 1 else 1


def check(row: Row, held: int) -> None:
    """Raises Disagreement where a difference in ``row`` is above its tolerance, or NaN."""
    step = int(row["step"])
    checked = {
        "the loss on the same embeddings": row[SAME_LOSS],
        "the gradient with respect to the same embeddings": row[SAME_GRADIENT],
    }
    if step <= held:
        checked["the losses of the two copies, before training could part them"] = row[COPIES_LOSS]
    for what, difference in checked.items():
        if not difference <= TOLERANCE:
            raise Disagreement(
                f"step {step}: fused and reference differ in {what} by {difference:.1e} relative; "
                f"at most {TOLERANCE:.0e} is allowed, some 100 times what rounding explains"
            )


def statement(held: int) -> str:
    """What is checked, for the output of a run."""
    first = "first step" if held == 1 else f"first {held}"
    return (
        f"fused and reference must agree to {TOLERANCE:.0e} relative: in loss and gradient on the same embeddings in "
        f"every step, and in the losses of the two copies in the {first}; after that, training multiplies "
        "differences in the last bit about tenfold a step, until any two correct runs part"
    )
