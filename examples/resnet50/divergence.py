"""A loss or an embedding that is no number any more: training cannot go on from there."""

from __future__ import annotations

import math

from torch import Tensor

from examples.resnet50.record import Row


class Diverged(Exception):
    """A loss or an embedding became NaN or infinite: the message names the step, and where to look. Exit code 1."""


def check_finite(row: Row) -> None:
    """Raises Diverged where a loss in ``row`` is not finite."""
    for key, value in row.items():
        if key.startswith("loss_") and not math.isfinite(value):
            name = key.removeprefix("loss_")
            raise Diverged(f"step {int(row['step'])}: the loss of {name} must be finite; got {value}")


def check_embeddings(embeddings: Tensor, name: str, step: int) -> None:
    """Raises Diverged where a row of ``embeddings`` [M, D], of the learner ``name`` after ``step``, is not finite."""
    wrong = ~embeddings.isfinite().all(1)
    if wrong.any():
        raise Diverged(
            f"step {step}: the embeddings of {name} must be finite; got {int(wrong.sum())} of {len(wrong)} rows that "
            f"are not, the first at {int(wrong.int().argmax())}"
        )
