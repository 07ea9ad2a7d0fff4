"""The libraries compared with, imported where they are installed; the tests of a file are skipped without its own."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest


def peer(name: str, install: str) -> ModuleType:
    """A module by name; ``install`` is what pip is asked for."""
    if name.partition(".")[0] in ("torchmetrics", "sentence_transformers") and importlib.util.find_spec("torchvision"):
        # They import torchvision where that is installed, whose operators may not load beside this PyTorch.
        from examples.resnet50.vision import load_torchvision

        load_torchvision()
    with pytest.MonkeyPatch.context() as patch:
        if name == "ranx":  # compiling its metrics takes a minute; this is read where numba is imported
            patch.setenv("NUMBA_DISABLE_JIT", "1")
        return pytest.importorskip(name, reason=f"pip install {install}")
