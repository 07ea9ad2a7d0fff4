"""Losses of several processes under ``torch.compile`` and ``torch.func``.

Which collectives a loss needs follows from what the ranks say in the first of them, which a trace cannot know: it runs
as it is, between what is compiled before and after. A transform has no tensors that could be sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from fasttriplet import transforms
from fasttriplet.arguments import as_passed


def wants_eager(arguments: Mapping[str, object]) -> bool:
    """Whether a call with these arguments is being traced and has a process group."""
    return arguments.get("process_group") is not None and torch.compiler.is_compiling()


@torch.compiler.disable
def eagerly(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """What ``function`` gives for its own ``locals()``, not traced: a break of the graph."""
    return function(**as_passed(given))


def refuse_transforms(function: str) -> None:
    """NotImplementedError under a transform of ``torch.func``: of all ranks, since they call the same."""
    if transforms.active():
        raise NotImplementedError(f"process_group must be None under a transform of torch.func; got one in {function}")
