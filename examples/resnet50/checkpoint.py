"""Writing and reading a run's whole state, and its best network."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from examples.resnet50.errors import UserError

_FORMAT = 2


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes beside ``path`` first: an interruption leaves the earlier checkpoint whole."""
    partial = path.with_name(path.name + ".partial")
    torch.save({"format": _FORMAT, **state}, partial)
    os.replace(partial, path)


def read_saved(path: str, what: str) -> dict[str, Any]:
    """What :func:`save_checkpoint` wrote; ``what`` names it in errors. Tensors and plain values only: reading runs no
    code from the file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise UserError(f"{what} is not a readable checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise UserError(f"{what} must be a checkpoint that this program wrote, in this version")
    return state


def load_checkpoint(path: str) -> dict[str, Any]:
    """The state of a run to go on with."""
    state = read_saved(path, f"--resume {path}")
    if "learners" not in state:
        raise UserError(
            f"--resume {path} must be a whole run, as checkpoint.pt beside it; got its best network alone, which "
            "nothing can go on from"
        )
    return state
