"""The drop-in in a process that has not imported pytorch-metric-learning, and that imports it later."""

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
INSTALLED = importlib.util.find_spec("pytorch_metric_learning") is not None


def test_without_the_library_and_then_with_it():
    command = [sys.executable, "-m", "tests.compat.pml_alone", *["installed"] * INSTALLED]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "done", result.stderr


def test_another_major_version_is_left_alone():
    code = (
        "import sys, types; library = types.ModuleType('pytorch_metric_learning'); library.__version__ = '3.0.0'\n"
        "sys.modules['pytorch_metric_learning'] = library\n"
        "from fasttriplet.compat import pml; print(type(pml.TripletMarginLoss().distance).__module__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "fasttriplet.compat._pml_objects", result.stderr
