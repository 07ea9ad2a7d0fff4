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
   4e-3, weights 1e-7 apart may round to different neighbours, and 6e-4 was measured in step 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from examples.resnet50.learner import StepResult
from examples.resnet50.losses import LossFunction

TOLERANCE = 1e-4
STEPS_BEFORE_CHAOS = 2
#: Losses below this are compared as if they were this: float32 holds distances near 1 to 1e-7 whatever the loss is.
LOSS_FLOOR = 1e-2
GRADIENT_FLOOR = 1e-6  # a gradient of norm 0 on both sides agrees


class Disagreement(Exception):
    """The two losses parted by more than rounding explains. Exit code 1."""


def relative_difference(first: float, second: float, floor: float) -> float:
    """|first - second| over the larger of the two and ``floor``; NaN if either is."""
    scale = max(abs(first), abs(second), floor)
    return abs(first - second) / scale


@dataclass(frozen=True)
class Agreement:
    """Relative differences in one step."""

    copies_loss: float
    copies_gradient_norm: float
    same_loss: float
    same_gradient: float  # |g - h| / |g| of the embeddings' gradients


def compare(fused: StepResult, reference: StepResult, reference_loss: LossFunction, labels: Tensor) -> Agreement:
    """Differences between the two copies, and between the two losses on the fused copy's embeddings."""
    leaf = fused.embeddings.double().requires_grad_()
    loss = reference_loss(leaf, labels)
    (expected,) = torch.autograd.grad(loss, leaf)
    gap = (fused.embedding_gradient.double() - expected).norm().item()
    return Agreement(
        copies_loss=relative_difference(fused.loss, reference.loss, LOSS_FLOOR),
        copies_gradient_norm=relative_difference(fused.gradient_norm, reference.gradient_norm, GRADIENT_FLOOR),
        same_loss=relative_difference(fused.loss, loss.item(), LOSS_FLOOR),
        same_gradient=gap / max(expected.norm().item(), GRADIENT_FLOOR),
    )


def held_steps(amp: bool) -> int:
    """For how many steps the losses of the two copies must agree."""
    return 1 if amp else STEPS_BEFORE_CHAOS


def check(step: int, agreement: Agreement, *, amp: bool) -> None:
    """Raises Disagreement where a difference is above its tolerance, or NaN."""
    checked = {
        "the loss on the same embeddings": agreement.same_loss,
        "the gradient with respect to the same embeddings": agreement.same_gradient,
    }
    if step <= held_steps(amp):
        checked["the losses of the two copies, before training could part them"] = agreement.copies_loss
    for what, difference in checked.items():
        if not difference <= TOLERANCE:
            raise Disagreement(
                f"step {step}: fused and reference differ in {what} by {difference:.1e} relative; "
                f"at most {TOLERANCE:.0e} is allowed, some 100 times what rounding explains"
            )


def statement(amp: bool) -> str:
    """What is checked, for the output of a run."""
    steps = held_steps(amp)
    return (
        f"fused and reference must agree to {TOLERANCE:.0e} relative: in loss and gradient on the same embeddings in "
        f"every step, and in the losses of the two copies in the first {steps}; after that, training multiplies "
        "differences in the last bit about tenfold a step, until any two correct runs part"
    )
