"""Imports torchvision, also where its compiled operators cannot load.

PyPI's torchvision is a CUDA build. Beside a PyTorch without CUDA its library of operators does not load, and
``import torchvision`` then fails with ``operator torchvision::nms does not exist``, because it registers fake kernels
for ``nms`` and ``qnms``. ResNet-50 needs neither operator: declaring the two schemas is enough. Where the library does
load nothing is declared, so that a matching installation works untouched (a second declaration would be an error).
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import torch

from examples.resnet50.errors import UserError

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # a schema lives as long as the Library that declared it


def _load_operators(package: Path) -> bool:
    """Whether torchvision's own library loads; it will load it again itself, which does nothing."""
    for suffix in EXTENSION_SUFFIXES:
        path = package / f"_C{suffix}"
        if path.is_file():
            try:
                torch.ops.load_library(str(path))
            except OSError:
                return False
            return True
    return False


def load_torchvision() -> ModuleType:
    """The module ``torchvision`` with ``torchvision.models`` imported."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise UserError("torchvision is not installed: pip install --no-deps torchvision==0.28.0 (for torch 2.13)")
    if not _libraries and not _load_operators(Path(spec.origin).parent):
        missing = [name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name)]
        if missing:
            _libraries.append(torch.library.Library("torchvision", "DEF"))
            for name in missing:
                _libraries[0].define(_SCHEMAS[name])
    importlib.import_module("torchvision.models")
    return importlib.import_module("torchvision")
