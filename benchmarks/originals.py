"""The libraries that ``fasttriplet.compat`` stands in for, imported where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType


def sentence_transformers_losses() -> ModuleType | None:
    """``sentence_transformers.losses``, or ``None`` where the package is not installed."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    if importlib.util.find_spec("torchvision") is not None:
        # It imports torchvision where that is installed, whose operators may not load beside this PyTorch.
        from examples.resnet50.vision import load_torchvision

        load_torchvision()
    return importlib.import_module("sentence_transformers.losses")


def pytorch_metric_learning() -> ModuleType | None:
    """``pytorch_metric_learning`` with its submodules, or ``None`` where the package is not installed."""
    if importlib.util.find_spec("pytorch_metric_learning") is None:
        return None
    for name in ("distances", "losses", "miners", "reducers"):
        importlib.import_module(f"pytorch_metric_learning.{name}")
    return importlib.import_module("pytorch_metric_learning")
