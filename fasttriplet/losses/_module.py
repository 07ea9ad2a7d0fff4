"""What the modules of losses over a batch share: options bound and checked at construction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from fasttriplet.arguments import DEFAULTS, GROUPS_EXCLUDE, ForwardArguments, ModuleOptions, takes
from fasttriplet.check import (
    DISTANCES,
    GRADIENT_SCALES,
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
from fasttriplet.distributed.group import check_process_group
from fasttriplet.distributed.held import HoldsProcessGroup
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
    "groups_exclude": partial(_choice, GROUPS_EXCLUDE),
    "ignore_index": lambda name, value: check_ignore_index(value),
    "return_stats": check_bool,
    "process_group": lambda name, value: check_process_group(value),
    "ref_sharded": check_bool,
    "gradient_scale": partial(_choice, GRADIENT_SCALES),
}


class TripletLoss(HoldsProcessGroup, nn.Module):
    """A function with the arguments bound that are not of one batch."""

    _function: ClassVar[Callable[..., LossResult]]

    if TYPE_CHECKING:  # torch.jit.script reads annotations, and what nn.Module has of these is of any type
        margin: float
        distance: str
        soft_margin: bool
        reduction: str
        on_missing: str
        groups_exclude: str
        ignore_index: int | None
        return_stats: bool
        ref_sharded: bool
        gradient_scale: str

        # Any, since it is a pair with return_stats=True.
        def __call__(self, embeddings: Tensor, labels: Tensor, **arguments: Unpack[ForwardArguments]) -> Any: ...

    def __init__(self, shared: Mapping[str, object], **options: object) -> None:
        super().__init__()
        for name in shared:
            if name not in ModuleOptions.__annotations__:
                raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument '{name}'")
        options |= {name: shared.get(name, DEFAULTS.get(name)) for name in ModuleOptions.__annotations__}
        self._options = tuple(options)
        for name, value in options.items():
            setattr(self, name, _CHECKS[name](name, value))

    @torch.jit.unused  # a model that holds one can be scripted, though what is here cannot
    @takes(ForwardArguments)
    def forward(self, embeddings: Tensor, labels: Tensor, **arguments: Unpack[ForwardArguments]) -> LossResult:
        """The loss of ``embeddings`` [N, D] under ``labels``.

        Args:
            embeddings: [N, D], as the function takes them.
            labels: [N], or [N, C] bool.
            **arguments: who pairs with whom in this batch, and weights:
                :class:`fasttriplet.arguments.ForwardArguments`.
        """
        for name in arguments:
            if name in self._options:
                raise TypeError(f"forward() got '{name}', which is given at construction")
        return self._function(embeddings, labels, **arguments, **{name: getattr(self, name) for name in self._options})

    def extra_repr(self) -> str:
        shown = ((name, getattr(self, name)) for name in self._options)
        return ", ".join(  # what all losses share is left out where it is as by default
            f"{name}={value!r}"
            for name, value in shown
            if name not in ModuleOptions.__annotations__ or value != DEFAULTS.get(name)
        )
