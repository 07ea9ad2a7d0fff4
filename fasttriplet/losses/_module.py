"""What the modules of losses over a batch share: options bound and checked at construction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from fasttriplet.check import (
    DISTANCES,
    NEGATIVES,
    ON_MISSING,
    OTHERWISE,
    REDUCTIONS,
    check_bool,
    check_choice,
    check_count,
    check_fraction,
    check_ignore_index,
    check_margin,
)
from fasttriplet.functional._loss import LossResult


def _choice(choices: tuple[str, ...], name: str, value: object) -> object:
    check_choice(name, value, choices)
    return value


#: What every option of a module is checked with, when it is made: (name, value) -> value.
_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "margin": lambda name, value: check_margin(value, name),
    "distance": partial(_choice, DISTANCES),
    "soft_margin": check_bool,
    "within_margin": check_bool,
    "negatives": partial(_choice, NEGATIVES),
    "otherwise": partial(_choice, OTHERWISE),
    "k": check_count,
    "kth_only": check_bool,
    "skip_fraction": check_fraction,
    "reduction": partial(_choice, REDUCTIONS),
    "on_missing": partial(_choice, ON_MISSING),
    "ignore_index": lambda name, value: check_ignore_index(value),
    "return_stats": check_bool,
}


class TripletLoss(nn.Module):
    """A function with the arguments bound that are not of one batch."""

    _function: ClassVar[Callable[..., LossResult]]

    def __init__(self, **options: object) -> None:
        super().__init__()
        self._options = tuple(options)
        for name, value in options.items():
            setattr(self, name, _CHECKS[name](name, value))

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        ref_embeddings: Tensor | None = None,
        ref_labels: Tensor | None = None,
        self_indices: Tensor | None = None,
        groups: Tensor | None = None,
        ref_groups: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> LossResult:
        """The loss of ``embeddings`` [N, D] under ``labels``, with the arguments of the function for this batch."""
        return self._function(
            embeddings,
            labels,
            ref_embeddings=ref_embeddings,
            ref_labels=ref_labels,
            self_indices=self_indices,
            groups=groups,
            ref_groups=ref_groups,
            weights=weights,
            **{name: getattr(self, name) for name in self._options},
        )

    def extra_repr(self) -> str:
        left_out = {"ignore_index": None, "return_stats": False}  # where they are as by default
        shown = ((name, getattr(self, name)) for name in self._options)
        return ", ".join(
            f"{name}={value!r}" for name, value in shown if name not in left_out or value != left_out[name]
        )
