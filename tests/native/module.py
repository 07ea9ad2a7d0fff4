"""The native test module: in FASTTRIPLET_NATIVE_DIR, or in build/native, where `make native` puts it."""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType


def load() -> ModuleType:
    folder = os.environ.get("FASTTRIPLET_NATIVE_DIR", str(Path(__file__).parents[2] / "build" / "native"))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module("_native")
