"""Losses of several processes under ``torch.compile``: they run as they are, between what is compiled before and after.

Which collectives a loss needs follows from what the ranks say in the first of them, which a trace cannot know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


def wants_eager(arguments: Mapping[str, object]) -> bool:
    """Whether a call with these arguments is being traced and has a process group."""
    return arguments.get("process_group") is not None and torch.compiler.is_compiling()


@torch.compiler.disable
def eagerly(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """What ``function`` gives for its own ``locals()``, not traced: a break of the graph."""
    arguments = dict(given)
    for rest in ("arguments", "pairing"):  # what the public functions call their **
        arguments.update(arguments.pop(rest, {}))
    return function(**arguments)
