"""Finds the native test module: FASTTRIPLET_NATIVE_DIR, or build/native, where `make native` puts it."""

import importlib
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.environ.get("FASTTRIPLET_NATIVE_DIR", str(Path(__file__).parents[2] / "build" / "native")))


@pytest.fixture(scope="session")
def native():
    """The module; it must be there: `make test` builds it."""
    return importlib.import_module("_native")


def pytest_generate_tests(metafunc):
    if "tier" in metafunc.fixturenames:
        metafunc.parametrize("tier", importlib.import_module("_native").tiers_to_test())
