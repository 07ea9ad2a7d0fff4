"""Writing and reading a run's whole state."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from examples.resnet50.errors import UserError

_FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes beside ``path`` first: an interruption leaves the earlier checkpoint whole."""
    partial = path.with_name(path.name + ".partial")
    torch.save({"format": _FORMAT, **state}, partial)
    os.replace(partial, path)


def load_checkpoint(path: str) -> dict[str, Any]:
    """Tensors and plain values only: reading a checkpoint runs no code from it."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise UserError(f"--resume {path} is not a readable checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise UserError(f"--resume {path} must be a checkpoint that this program wrote")
    return state
