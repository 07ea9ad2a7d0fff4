"""A loss that is no number any more: training cannot go on from there."""

from __future__ import annotations

import math

from examples.resnet50.record import Row


class Diverged(Exception):
    """A loss became NaN or infinite: the message names the step, and where to look. Exit code 1."""


def check_finite(row: Row) -> None:
    """Raises Diverged where a loss in ``row`` is not finite."""
    for key, value in row.items():
        if key.startswith("loss_") and not math.isfinite(value):
            name = key.removeprefix("loss_")
            raise Diverged(f"step {int(row['step'])}: the loss of {name} must be finite; got {value}")
