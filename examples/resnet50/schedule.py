"""Learning rates over the steps of a run, and when the body of the network is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Steps count from 1. The head alone first, if ``frozen_steps``; then everything, at ``fine_tune_lr``."""

    lr: float
    fine_tune_lr: float
    total_steps: int
    frozen_steps: int
    cosine: bool
    warmup_steps: int = 10  # Adam's first steps have the size of the rate, whatever the gradient

    def is_frozen(self, step: int) -> bool:
        """Whether the body rests in this step."""
        return step <= self.frozen_steps

    def rate(self, step: int) -> float:
        """A linear rise at the start of each phase, then constant or half a cosine down to 0 at the end of the run."""
        if self.is_frozen(step):
            return self.lr * min(1.0, step / self.warmup_steps)
        done = step - self.frozen_steps
        rate = (self.fine_tune_lr if self.frozen_steps else self.lr) * min(1.0, done / self.warmup_steps)
        if self.cosine:
            rate *= 0.5 * (1 + math.cos(math.pi * (done - 1) / max(1, self.total_steps - self.frozen_steps)))
        return rate
