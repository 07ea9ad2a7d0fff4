"""The libraries that ``fasttriplet.compat`` stands in for, imported where they are installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from types import ModuleType

#: Distributions, as ``pip`` names them.
LIBRARIES = ("pytorch-metric-learning", "sentence-transformers")


def version(name: str) -> tuple[int, int]:
    """Major and minor of an installed library, by its name as ``pip`` has it."""
    major, minor = importlib.metadata.version(name).split(".")[:2]
    return int(major), int(minor)


def versions() -> str:
    """What is installed of ``LIBRARIES``, for reports: "pytorch-metric-learning 2.9.0, ..."."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def sentence_transformers_module(name: str) -> ModuleType | None:
    """``losses`` or ``evaluation`` of sentence-transformers, or ``None`` where the package is not installed."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    if importlib.util.find_spec("torchvision") is not None:
        # It imports torchvision where that is installed, whose operators may not load beside this PyTorch.
        from examples.resnet50.vision import load_torchvision

        load_torchvision()
    home = "sentence_transformers.sentence_transformer"  # from 5.4 on; the old place warns there
    if importlib.util.find_spec(home) is None:
        home = "sentence_transformers"
    return importlib.import_module(f"{home}.{name}")


def pytorch_metric_learning() -> ModuleType | None:
    """``pytorch_metric_learning`` with its submodules, or ``None`` where the package is not installed."""
    if importlib.util.find_spec("pytorch_metric_learning") is None:
        return None
    for name in ("distances", "losses", "miners", "reducers"):
        importlib.import_module(f"pytorch_metric_learning.{name}")
    return importlib.import_module("pytorch_metric_learning")
