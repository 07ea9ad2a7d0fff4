"""torchmetrics and Lightning where they are installed; the tests of a file are skipped without them."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import pytest


def module_or_skip(name: str) -> ModuleType:
    """The module ``name``, which imports torchvision where that is installed, also beside a PyTorch of other builds."""
    package = name.split(".")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install 'fasttriplet[compat]')", allow_module_level=True)
    if importlib.util.find_spec("torchvision") is not None:
        from examples.resnet50.vision import load_torchvision

        load_torchvision()
    return importlib.import_module(name)
