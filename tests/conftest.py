"""The engine that the tests run on, tests/engine.py: the CPU's own unless another is asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

collect_ignore = ["other_device.py"]  # which makes a device of its own where it is imported
if os.environ.get("FASTTRIPLET_TEST_ENGINE", "cpu") != "cpu":
    from tests import engine

    _replaced = engine.select()
    everything = [path.name for path in Path(__file__).parent.iterdir()]
    collect_ignore += [name for name in everything if not engine.runs(name)]


def pytest_report_header() -> str:
    return f"fasttriplet's engine: {os.environ.get('FASTTRIPLET_TEST_ENGINE', 'cpu')}"


@pytest.fixture(scope="session")
def other_device() -> dict:
    """What tests/other_device.py says: by case what goes wrong there, with float64 and without."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip(f"PyTorch {torch.__version__} has no backends in Python")
    command = [sys.executable, "-m", "tests.other_device"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
